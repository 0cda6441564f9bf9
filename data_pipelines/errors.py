"""The exception for errors that the user can fix."""

from data_pipelines.masking import masked


class UserError(Exception):
    """An error that the user can fix, such as a wrong argument or a full disk.

    The command line prints it as one message and exits with a non-zero code, without a traceback. Passwords and
    signatures of URLs are masked.

    Args:
        what: what is wrong, as one sentence.
        where: the file, shard, field or rank where it was found.
        fix: how to fix it, as an instruction. Commands are given in full.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.fix = masked(what), masked(fix) if fix is not None else None
        self.where = masked(where) if isinstance(where, str) else where
        place = f"{self.where}: " if where is not None else ""
        super().__init__(f"{place}{self.what}" + (f"\n  fix: {self.fix}" if fix else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.what, self.where, self.fix))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _rebuild(what: str, where: object, fix: str | None) -> UserError:
    return UserError(what, where=where, fix=fix)
