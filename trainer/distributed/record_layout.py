"""The layout of a rank's record: the phases of a rank, and the bytes that tell them.

The memory has single words, which the processor writes as a whole, and two copies of a block. The rank writes the
copies in turn, each with a number and a checksum. A copy that is only partly written has a wrong checksum, and the
other copy is whole. A reader therefore never sees a torn block.

Loads no torch.
"""

import struct
from enum import IntEnum

RECORD = "ALL4ONE_RANK_RECORD"
"""Environment variable with the file descriptor of the rank's record. Absent: nobody reads what the rank does."""


class Phase(IntEnum):
    """What a rank does. The order is that of a step."""

    START = 0
    """Joins the other ranks, and opens data, model and checkpoint."""
    DATA_WAIT = 1
    AGREEMENT = 2
    """Hears whether the ranks run the next step."""
    FORWARD = 3
    BACKWARD = 4
    QUEUE = 5
    UPDATE = 6
    EMA = 7
    LOG = 8
    """Writes what the step has measured."""
    EVALUATION = 9
    SAVE = 10
    OTHER = 11
    """All else between steps: comparisons of the state, a rollback, the end."""

    @property
    def label(self) -> str:
        """The phase in words."""
        return {Phase.EMA: "EMA", Phase.OTHER: "other work"}.get(self, self.name.lower().replace("_", " "))


COMPUTE = (Phase.FORWARD, Phase.BACKWARD, Phase.QUEUE, Phase.UPDATE, Phase.EMA)
"""Phases of a step in which all ranks compute the same amount, apart from their messages."""
IN_STEP = (Phase.DATA_WAIT, Phase.AGREEMENT, *COMPUTE, Phase.LOG)
"""Phases that a usual step has. All others may take long."""
OPERATIONS = (
    "all_reduce",
    "all_gather_single",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "reduce",
    "broadcast",
    "all_gather",
    "gather",
    "barrier",
)
"""Functions of `torch.distributed` that are recorded."""

MESSAGE_WORD, BEAT_WORD, LATE_WORD, RETRIES_WORD, REQUEST_WORD = range(5)
"""Places of the single words."""
NUM_WORDS = 8
BLOCK = struct.Struct(f"<4q{len(Phase)}q2q")
"""Number of the copy, step, phase, its beginning, nanoseconds of each phase, of messages, and of computation."""
CHECKSUM = struct.Struct("<I")
COPY_BYTES = BLOCK.size + CHECKSUM.size
COPY_STRIDE = 256
FIRST_COPY = 8 * NUM_WORDS
SIZE = FIRST_COPY + 2 * COPY_STRIDE
"""Bytes of a record."""
WAITS_BIT, DEPARTS_BIT = 1, 2
KIND_BITS, OPERATION_BITS = 6, 6
OPERATION_SHIFT = 2
KIND_SHIFT = OPERATION_SHIFT + OPERATION_BITS
NUMBER_SHIFT = KIND_SHIFT + KIND_BITS
