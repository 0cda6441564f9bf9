"""The one exception for what a user can mend, and what others say."""


class UserError(Exception):
    """A mistake or a condition outside the program that its user can mend.

    The command line prints it as one message and exits with a code other than 0, without a traceback.

    Args:
        what: what is wrong, as one sentence.
        where: the file, shard, field or rank it was found at.
        fix: what to do about it, as an instruction; commands are given in full.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where is not None else ""
        super().__init__(f"{place}{what}" + (f"\n  fix: {fix}" if fix else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.what, self.where, self.fix))


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _rebuild(what: str, where: object, fix: str | None) -> UserError:
    return UserError(what, where=where, fix=fix)
