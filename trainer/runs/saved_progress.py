"""What a run's own records say about the checkpoints that it has saved. Loads no torch."""

from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

SAVED = "saved"
"""Ledger event: an attempt has written its first checkpoint."""
SURVIVED = "survived"
"""Ledger event: a rank has saved a step after the loss of another one. Its `source` is one of the next two."""
OF_RANK = "state of the rank"
"""Source of the event before: the rank's own state of the last finished step."""
OF_COPIES = "copies of neighbors"
"""Source of that event: the copies that the ranks that are left kept in host memory."""
FELL_BACK = "fell_back"
"""Ledger event: a rank was lost, no rank could save a step, and the ranks start again from the last checkpoint."""
TAKEN = "taken"
"""Ledger event: the run began with a checkpoint of another run."""
FROM_SCRATCH = "from_scratch"
"""Ledger event: the user asked to train again from step 0 after the checkpoints were lost."""

REPLICAS_DIFFER = "replicas_differ"
"""Ledger event: ranks held different state, and the checkpoints after the last equal comparison were set aside."""


def refuse_lost_checkpoints(run: RunFolder, *, checkpoint_every: int) -> None:
    """Raise a UserError if the records show progress that checkpoints must hold, and the run has no checkpoint.

    A run that was killed before its first checkpoint passes: it starts again at step 0, as it must. So does a run
    whose checkpoints were all set aside.

    Args:
        run: a run without checkpoints.
        checkpoint_every: steps between checkpoints. 0: none are due during the run.
    """
    ledger = read_records(run.ledger)
    begun = max((i for i, record in enumerate(ledger) if _starts_over(record)), default=-1) + 1
    if step := max(map(_saved_step, ledger[begun:]), default=0):
        evidence = f"{run.ledger.name} says that a checkpoint of step {step} was saved"
    elif begun:
        return
    else:
        # Version 0.1 did not record that a checkpoint was saved. A second one begins once the first is written.
        step = max(
            (r.get("step", 0) for r in read_records(run.metrics) if r.get("kind") == "train"), default=0
        )
        if not step or (ledger and not 0 < 2 * checkpoint_every <= step):
            return
        evidence = f"{run.metrics.name} has steps up to {step}"
    raise UserError(
        f"the checkpoints are gone: {evidence}, but there is no checkpoint",
        where=run.checkpoints,
        fix=f"restore this folder, or train again from step 0: all4one resume {quoted(run.path)} --from-scratch",
    )


def _starts_over(record: dict[str, Any]) -> bool:
    """Whether the run begins at step 0 after a record of the ledger."""
    event = record.get("event")
    return event == FROM_SCRATCH or (event == REPLICAS_DIFFER and record.get("to_step") == 0)


def _saved_step(record: dict[str, Any]) -> int:
    """Return the step up to which a record of the ledger shows that a checkpoint existed. 0: it shows none."""
    keys = {
        SAVED: ("step",),
        SURVIVED: ("step",),
        FELL_BACK: ("step",),
        TAKEN: ("step",),
        "ready": ("step",),
        "end": ("step", "saved"),
        "rollback": ("to_step",),
        REPLICAS_DIFFER: ("to_step",),
    }
    values = (record.get(key) for key in keys.get(str(record.get("event")), ()))
    return max((value for value in values if isinstance(value, int)), default=0)
