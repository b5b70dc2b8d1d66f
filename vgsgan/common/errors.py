"""The one exception for what a user can cause and mend."""


class UserError(Exception):
  """Bad input; the message is one line: what is wrong, where, what to do.

  `main` prints the message alone and exits with status 2. Anything else that
  is raised is a fault of the program and keeps its traceback.
  """
