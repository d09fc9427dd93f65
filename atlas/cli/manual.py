"""The manual of the command, made from what ``--help`` says: ``python -m atlas.cli.manual > docs/cli.md``."""

from __future__ import annotations

import re
from typing import Any

import typer

from atlas.cli import COMMANDS, EPILOG, HELP, app

_HEAD = """# The atlas command

Made by `python -m atlas.cli.manual` from what `atlas --help` and `atlas COMMAND --help` say, word for word.
"""


def manual() -> str:
    """Return the manual as Markdown."""
    root: Any = typer.main.get_command(app)
    parts = [_HEAD, *_paragraphs(HELP), *_paragraphs(EPILOG)]
    parts.append("\n".join(f"- [`atlas {name}`](#atlas-{name}): {_first(root.commands[name])}" for name in COMMANDS))
    for name in COMMANDS:
        parts += [f"## atlas {name}", f"```\n{_help(root, name)}\n```"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n")]


def _first(command: Any) -> str:
    return re.split(r"(?<=[.;:])\s", " ".join(command.help.split()))[0].rstrip(".;:")


def _help(root: Any, name: str) -> str:
    command = root.commands[name]
    with command.make_context(f"atlas {name}", [], resilient_parsing=True, **root.context_settings) as context:
        return str(command.get_help(context)).rstrip()


if __name__ == "__main__":
    print(manual(), end="")
