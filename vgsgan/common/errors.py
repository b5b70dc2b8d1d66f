"""The exception for faults that a user can mend, and errors on one line."""


class UserError(Exception):
  """Bad input; the message is one line: what is wrong, where, what to do.

  `main` prints the message alone and exits with status 2. Anything else that
  is raised is a fault of the program and keeps its traceback.
  """


def one_line(error: BaseException, named: bool = False) -> str:
  """The message of an error on one line.

  Args:
    error: any.
    named: with the error's type in front, for messages that need it, and cut
      at 200 characters.
  """
  name = type(error).__name__
  if named:
    return " ".join(f"{name}: {error}".split())[:200]
  return " ".join(str(error).split()) or name


def first_line(error: BaseException) -> str:
  """The first line of an error's message that is not empty."""
  lines = (" ".join(line.split()) for line in str(error).splitlines())
  return next(filter(None, lines), type(error).__name__)
