"""An argument parser that shows examples before options, and guesses what a mistake meant."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import shtab

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """
    Its ``epilog`` holds the examples, which ``--help`` shows before the options.

    Sub-commands' parsers are of this class as well, as argparse makes them of their parent's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See :class:`argparse.ArgumentParser`; abbreviated options are not understood."""
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """See :meth:`argparse.ArgumentParser.add_argument`; what is free text completes files."""
        action = super().add_argument(*args, **kwargs)
        if action.nargs != 0 and action.choices is None and action.type is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        return action

    def parse_command(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """
        Parse a command line.

        What is left over is an error of the sub-command, which the result's ``parser`` names, and
        not of the whole command, as with argparse.
        """
        args, left = self.parse_known_args(argv)
        if left:
            args.parser.error(f"unrecognized arguments: {' '.join(left)}")
        return args

    def error(self, message: str) -> NoReturn:
        """
        See :meth:`argparse.ArgumentParser.error`; adds what may have been meant.

        The usage, many lines for some commands, would hide the sentence that matters.
        """
        guess = self._guess(message)
        self.exit(2, f"{self.prog}: error: {message}{guess}\n{self.prog} --help says more.\n")

    def check_folder(self, option: str, path: str | None) -> None:
        """End the command, before it does its work, if a folder to write to can't be one."""
        if path is None:
            return
        for part in (Path(path), *Path(path).parents):
            if part.exists():
                if not part.is_dir():
                    self.error(f"{option}: '{part}' is a file; name a folder")
                if not os.access(part, os.W_OK):
                    self.error(f"{option}: nothing may be written to '{part}'; name another place")
                return

    def check_file(self, option: str, path: str | None) -> None:
        """The same of a file to write."""
        if path is None:
            return
        if Path(path).is_dir():
            self.error(f"{option}: '{path}' is a folder; name a file")
        self.check_folder(option, str(Path(path).parent))

    def format_help(self) -> str:
        """See :meth:`argparse.ArgumentParser.format_help`."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        formatter.add_text(self.epilog)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return formatter.format_help()

    def _guess(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            return _did_you_mean(unknown[1], self._option_string_actions)
        wrong = re.match(r"argument .*: invalid choice: '([^']*)' \(choose from (.*)\)", message)
        return _did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""


def _did_you_mean(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""
