"""The exception for errors that a user can mend, and one-line messages."""


class UserError(Exception):
  """Bad input; the message is one line: what is wrong, where, what to do.

  `main` prints only the message and exits with status 2. Any other exception is
  a bug of the program and keeps its traceback.
  """


def one_line(error: BaseException, named: bool = False) -> str:
  """The message of an error on one line.

  Args:
    error: any exception.
    named: puts the error's type in front, and cuts the line at 200 characters.
  """
  name = type(error).__name__
  if named:
    return " ".join(f"{name}: {error}".split())[:200]
  return " ".join(str(error).split()) or name


def first_line(error: BaseException) -> str:
  """The first non-empty line of an error's message, or the error's type."""
  lines = (" ".join(line.split()) for line in str(error).splitlines())
  return next(filter(None, lines), type(error).__name__)
