"""Names the content of the messages between ranks by the function that sends them. Loads no torch."""

from types import CodeType, FrameType

GRADIENTS, KEYS, PREDICTIONS, BATCH_STATISTICS, SUMS, OTHER_MESSAGES = (
    "gradients",
    "keys",
    "predictions",
    "batch norm",
    "sums",
    "other",
)
"""Content of messages: predictions of all ranks with their gradients, batch statistics, and sums of losses over the
batch."""
STOP_CODES, VALUES, OBJECTS, DEEPSPEED, RUNNING_STATISTICS = (
    "stop codes",
    "recorded values",
    "small objects",
    "DeepSpeed's shards",
    "running statistics",
)
"""Content of further messages that a step may have. `profile` counts them as other messages."""
KINDS = (
    OTHER_MESSAGES,
    GRADIENTS,
    KEYS,
    PREDICTIONS,
    BATCH_STATISTICS,
    SUMS,
    STOP_CODES,
    VALUES,
    OBJECTS,
    DEEPSPEED,
    RUNNING_STATISTICS,
)
"""All kinds. The number of a kind is its place here."""
_SENDERS = {
    "trainer.distributed.gradient_buckets": GRADIENTS,
    "trainer.distributed.batch_norm_cpu": BATCH_STATISTICS,
    "trainer.distributed.batch_norm_cuda": BATCH_STATISTICS,
    "trainer.distributed.two_norms_cuda": BATCH_STATISTICS,
    "torch.nn.modules._functions": BATCH_STATISTICS,  # SyncBatchNorm
    "trainer.distributed.collectives:start_gather": KEYS,
    "trainer.distributed.collectives:_Gather": PREDICTIONS,
    "trainer.distributed.collectives:_own_part_of_sum": PREDICTIONS,
    "trainer.distributed.collectives:_summed": SUMS,
}
_OTHER_SENDERS = {
    "trainer.distributed.process_group": STOP_CODES,
    "trainer.distributed.objects": OBJECTS,
    "trainer.engine.value_means": VALUES,
    "trainer.engine.batch_statistics": RUNNING_STATISTICS,
}
_numbers: dict[int, tuple[CodeType, int]] = {}


def message_kind(sender: FrameType) -> str | None:
    """Return the content of the messages that a function sends. None: it is no known sender."""
    module, owner = sender.f_globals["__name__"], sender.f_code.co_qualname.partition(".")[0]
    return _SENDERS.get(module) or _SENDERS.get(f"{module}:{owner}")


def kind_number(sender: FrameType) -> int:
    """Return the number in `KINDS` of the messages that a function sends. The second call for a function is fast."""
    code = sender.f_code
    known = _numbers.get(id(code))  # the hash of a code object would take longer than all else
    if known is None:
        module = str(sender.f_globals["__name__"])
        kind = message_kind(sender) or _OTHER_SENDERS.get(module)
        if kind is None:
            kind = DEEPSPEED if module.startswith("deepspeed.") else OTHER_MESSAGES
        # The code object is kept, so that no other one takes its id.
        known = _numbers[id(code)] = (code, KINDS.index(kind))
    return known[1]
