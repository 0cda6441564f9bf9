"""The exception for errors that the user can fix."""


class UserError(Exception):
    """An error that the user can fix, such as a wrong argument or a full disk.

    The command line prints it as one message and exits with a non-zero code, without a traceback.

    Args:
        what: what is wrong, as one sentence.
        where: the file, shard, field or rank where it was found.
        fix: how to fix it, as an instruction. Commands are given in full.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where is not None else ""
        super().__init__(f"{place}{what}" + (f"\n  fix: {fix}" if fix else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.what, self.where, self.fix))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _rebuild(what: str, where: object, fix: str | None) -> UserError:
    return UserError(what, where=where, fix=fix)
