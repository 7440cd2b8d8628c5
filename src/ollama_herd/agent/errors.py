"""What stops the agent from starting; the command line shows the text and ends."""


class AgentError(Exception):
    """The message says what is wrong and what to do about it."""
