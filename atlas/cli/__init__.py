"""The ``atlas`` command. A module of this package is a command of its name, or what several of them share.

Each command has ``run``, whose arguments are the command's and whose first sentence says what it does, and
``EXAMPLES``. What it needs beyond its arguments it imports when it runs: ``atlas --help`` loads nothing of the library.
"""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from typing import Annotated

import typer

from atlas import __version__
from atlas.cli import terminal
from atlas.cli.hints import hinting
from atlas.errors import AtlasError

# In the order of the help.
COMMANDS = (
    *("create", "append", "ls", "show", "info", "stats", "read", "export"),
    *("rm", "mv", "cp", "compact", "gc", "verify", "repair", "bench"),
)

HELP = """Stores of thousands to millions of similar N-dimensional datasets.

A STORE is a directory, or a URL such as s3://bucket/prefix. Every command has its own help: atlas ls --help."""

EPILOG = """Exit status:

0, done; 1, it failed, or something was left out or is damaged; 2, the command was misspelt; 130, it was interrupted.
What fails or is interrupted says so in one line on stderr, and leaves the store as it was.

Shell completion, of commands, options, and names of datasets and arrays: atlas --install-completion."""

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

# Plain help: it can be searched and piped, and rich takes longer to load than most commands to run.
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"atlas {__version__}")
        raise typer.Exit


@app.callback(help=HELP, epilog=EPILOG)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def _examples(lines: tuple[tuple[str, str], ...]) -> str:
    width = max(len(command) for command, _ in lines)
    apart = width + max(len(says) for _, says in lines) + 6 > 76
    shown = [f"  {command}\n      {says}" if apart else f"  {command:<{width}}  # {says}" for command, says in lines]
    return "\b\n" + "\n".join(["Examples:", *shown])


for _name in COMMANDS:
    _module = importlib.import_module(f"atlas.cli.{_name}")
    app.command(_name, epilog=_examples(_module.EXAMPLES))(hinting(_module.run))


def main() -> None:
    """Run the command; errors are one line on stderr."""
    warnings.showwarning = terminal.warn_in_one_line()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_status())


def _status() -> int:
    try:
        status = int(app(prog_name="atlas", standalone_mode=False) or 0)
        print(end="", flush=True)  # there may be no stdout at all
    except typer.TyperException as error:
        if len(sys.argv) == 1:
            print(error.format_message(), file=sys.stderr)
            return MISUSED
        hint = getattr(getattr(error, "ctx", None), "command_path", "atlas")
        said = error.format_message().rstrip(".")
        return _complain(f"{said}{'' if said.endswith('?') else '.'} See {hint} --help.", MISUSED)
    except AtlasError as error:
        return _complain("; ".join([str(error), *getattr(error, "__notes__", ())]), FAILED)
    except OSError as error:  # storage errors are ours: what is left is the terminal, file or pipe
        return _complain(f"cannot write the output: {error}", FAILED)
    except KeyboardInterrupt:
        status = INTERRUPTED
    # typer turns Ctrl-C into this status.
    return _complain("interrupted; the store is as it was", INTERRUPTED) if status == INTERRUPTED else status


def _complain(message: str, status: int) -> int:
    print(f"atlas: {' '.join(message.split())}", file=sys.stderr)
    return status
