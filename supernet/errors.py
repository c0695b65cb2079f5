"""What goes wrong by input: one line that says what was expected, what came, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one line: what was expected, what came, what to do.

    The command line tools print it and exit with code 2; every other exception keeps its traceback.

    Attributes:
        missing: what of a run is not there, not finished or not usable: ``supernet``, ``lut``, ``front``, ``network``;
            or that the folder holds ``another run``, that ``code`` of one's own was not named, or that an image is
            ``damaged``.
            The library does not know who makes it; the commands do, and add which one to run.
    """

    def __init__(self, message: str, missing: str | None = None):
        super().__init__(message)
        self.missing = missing

    def of(self, what: str) -> UserError:
        """The same fault, said of ``what``: what is missing, and the advice that follows from it, stay."""
        return type(self)(f"{what}: {self}", self.missing)


def dead_loader(error: RuntimeError) -> UserError | None:
    """What PyTorch raises wherever a process is when one that decodes its images has died, in one line; else None."""
    if "DataLoader worker" not in str(error):
        return None
    return UserError(
        f"a process that decodes images has died ({str(error).splitlines()[0]}): take fewer of them, as they may have "
        "run out of memory; the last checkpoint is intact"
    )


class SpaceMismatch(UserError):
    """A file was made for another space than the one at hand."""


class CheckpointError(UserError):
    """A file of weights is missing, damaged, or of another kind or schema."""
