"""The exceptions that mean "the user can mend this"."""


class UserError(Exception):
    """A mistake in a config, path, checkpoint or data file.

    The message is one sentence that names the place and the mend. The command line prints it without a traceback
    and exits with code 2; from Python it is an ordinary exception. Bytes of file names that are no UTF-8 are shown
    as ``\\udcff`` and the like, so that the sentence can be printed anywhere.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))


class ParserError(UserError):
    """What a parser of configurations says, still in its nested form."""


class Malformed(ValueError):
    """What is wrong with the content of a file, as a clause without the file's name."""
