"""Numba loops that write into `out`. They know bytes and strides, and nothing of stores.

`compile` owns the policy; `twins` holds a plain NumPy twin of every kernel.
"""
