"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in a config, path, checkpoint or data file.

    The message is one sentence that names the place and the mend. The command line prints it without a traceback
    and exits with code 2; from Python it is an ordinary exception.
    """
