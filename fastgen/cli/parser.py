"""The parser of the commands that read configs."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from fastgen.configuration.diagnosis import refuse_unknown
from fastgen.configuration.parsing import ClassesOnly
from fastgen.errors import ParserError, UserError
from fastgen.storage.documents import read_yaml


class ConfigParser(ClassesOnly, LightningArgumentParser):
    """Raises where argparse would print its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserError(message) from ex

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Names the file that is no YAML, and what is wrong with it."""
        if os.path.exists(cfg_path):
            refuse_unknown(read_yaml(cfg_path), self)
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except ParserError as error:
            if str(error).startswith("Unexpected config"):
                message = f"'{cfg_path}' is no mapping; begin it with 'trainer:', 'model:' and 'data:'."
                raise UserError(message) from error
            raise
