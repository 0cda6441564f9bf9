"""The interpretation of a profile: the bottleneck, its cost, and which settings to change."""

from dataclasses import dataclass

from trainer.config.schema import Config
from trainer.profiling.instruments import EMA, GATHERS, LOADER, OPTIMIZER, QUEUE, REDUCTION, WAIT
from trainer.profiling.profile_record import Profile

DATA, MESSAGES, UPDATE, COMPUTE, OVERHEAD = "data", "communication", "update", "compute", "overhead"
WORTH_SAYING = 0.05
"""Fraction of a step below which a cost is not worth a recommendation."""
UNSTEADY = 0.05
"""Spread over the rounds above which the numbers of another profile may differ by more than they should."""
CROWDED = 0.1
"""Fraction of the time without a core above which other programs share the machine."""


@dataclass(frozen=True)
class Advice:
    """A recommended change and its possible gain."""

    change: str
    """A setting with its value, or what to do in words."""
    why: str
    """How it helps, or how it is done. Empty: that is clear."""
    saved: float | None
    """Fraction of a step that it saves at most. None: unknown, it must be tried."""

    @property
    def subject(self) -> str:
        """What is changed. Two values of one setting have the same subject."""
        return self.change.partition("=")[0]

    def joined(self, other: "Advice") -> "Advice":
        """Return this advice with what the same change gains elsewhere in a step."""
        if other.change != self.change:
            return self
        known = [one.saved for one in (self, other) if one.saved is not None]
        why = " and ".join(dict.fromkeys(filter(None, (self.why, other.why))))
        return Advice(self.change, why, sum(known) if known else None)

    def __str__(self) -> str:
        gain = (
            "try it"
            if self.saved is None
            else f"up to {1 / max(0.01, 1 - self.saved):.2f} times the images/s"
        )
        return f"{self.change}{f' ({self.why})' if self.why else ''}: {gain}"


@dataclass(frozen=True)
class Verdict:
    """The bottleneck of a run."""

    bound: str
    shares: dict[str, float]
    """Fractions of a step by purpose. They add up to 1."""
    words: str


def find_verdict(profile: Profile, config: Config, cores: int) -> Verdict:
    """Return the verdict on a profile of a run with these settings on a node with `cores` cores."""
    shares = _shares(profile)
    bound = max(shares, key=lambda name: shares[name])
    said = [_bound_in_words(bound, profile, shares)]
    if why := _uncertainty(profile):
        said = [
            f"This machine is too busy to tell: {why}. End other programs, and measure again. As measured:",
            *said,
        ]
    advised: dict[str, Advice] = {}
    for kind in sorted(shares, key=lambda name: -shares[name]):
        for advice in _advice(kind, profile, config, shares, cores) if shares[kind] >= WORTH_SAYING else ():
            first = advised.get(advice.subject)
            advised[advice.subject] = advice if first is None else first.joined(advice)
    return Verdict(bound, shares, "\n".join(said + [f"  - {advice}" for advice in advised.values()]))


def _shares(profile: Profile) -> dict[str, float]:
    checkpoints = profile.checkpoint / profile.checkpoint_every if profile.checkpoint_every else 0.0
    sent = profile.without_data - profile.without_messages if profile.world_size > 1 else 0.0
    spent = {
        DATA: profile.parts[WAIT],
        LOADER: profile.parts[LOADER],
        MESSAGES: max(0.0, sent),
        UPDATE: sum(profile.parts[name] for name in (OPTIMIZER, EMA, QUEUE)) + checkpoints,
        OVERHEAD: profile.overhead,
    }
    spent[COMPUTE] = max(0.0, sum(profile.parts.values()) + checkpoints - sum(spent.values()))
    return {kind: seconds / sum(spent.values()) for kind, seconds in spent.items()}


def _uncertainty(profile: Profile) -> str | None:
    """Return why this machine is too busy to be measured. None: it is not."""
    if profile.crowded > CROWDED:
        return f"the training thread had no core for {profile.crowded:.0%} of the time, because other programs had it"
    unsteady = {
        "a step on a loaded batch": profile.spread.get("without_data", 0.0),
        "the peak of a matrix product": profile.spread.get("peak", 0.0),
    }
    what, spread = max(unsteady.items(), key=lambda entry: entry[1])
    return f"{what} varies by ±{spread:.0%} between rounds" if spread > UNSTEADY else None


def _bound_in_words(bound: str, profile: Profile, shares: dict[str, float]) -> str:
    now, share = profile.images_per_second, f"{100 * shares[bound]:.0f} %"
    able = profile.global_batch / profile.without_data
    if bound == DATA:
        return (
            f"Bound by data: {share} of a step is lost waiting for the loader, which reaches "
            f"{profile.global_batch / profile.loader:.0f} images/s alone. The model could process {able:.0f} images/s, "
            f"{able / now:.1f} times the present rate."
        )
    if bound == LOADER:
        return (
            f"Bound by the loader's cores: {share} of a step is lost because the loader's threads compute beside the "
            f"networks. While the loader rests, the model reaches {able:.0f} images/s, {able / now:.1f} times the "
            "present rate."
        )
    if bound == OVERHEAD:
        cost = "the launch of kernels" if profile.on_gpu else "torch's dispatch and the start of its threads"
        return (
            f"Bound by overhead: {share} of a step does not depend on the number of images. It is {cost}, which each "
            "operation costs whatever its size. The operations are too small for it."
        )
    if bound == MESSAGES:
        alone = profile.global_batch / profile.without_messages
        return (
            f"Bound by communication: {share} of a step is communication between {profile.world_size} processes "
            f"({profile.message_bytes / 1e6:.1f} MB from each). Without it the run would reach {alone:.0f} images/s, "
            f"{alone / now:.1f} times the present rate."
        )
    if bound == UPDATE:
        return (
            f"Bound by the update: {share} of a step is spent on optimizer, EMA encoder, queue and checkpoints. Their "
            "cost does not depend on the batch size."
        )
    return (
        f"Bound by compute: {share} of a step is computation of the networks, at {100 * profile.mfu:.0f} % of the "
        f"{profile.peak_words}."
    )


def _advice(
    kind: str, profile: Profile, config: Config, shares: dict[str, float], cores: int
) -> list[Advice]:
    own, share = cores // profile.world_size, shares[kind]
    larger_batch = f"train.global_batch={2 * profile.global_batch}"
    if kind == DATA and config.data.decode_threads and config.data.decode_threads < own:
        return [Advice(f"data.decode_threads={own}", "more cores for decoding", share)]
    if kind in (DATA, LOADER):
        found = [
            Advice("more cores for each process", "", share),
            Advice("images resized once", "`all4one data build --resize-shorter 256`", share),
        ]
        if kind == LOADER and not profile.on_gpu and profile.threads > 1:
            fewer = f"parallel.torch_threads={profile.threads - 1}"
            found.append(Advice(fewer, "leaves a core to the loader", None))
        return found
    if kind == OVERHEAD:
        found = [Advice(larger_batch, "the same overhead for twice the images", share / 2)]
        if profile.on_gpu and not config.parallel.compile:
            found.append(Advice("parallel.compile=true", "fewer kernels", share))
        if not profile.on_gpu and profile.threads > 1:
            found.append(Advice("parallel.torch_threads=1", "no start of threads", None))
        return found
    if kind == MESSAGES:
        step = sum(profile.parts.values())
        reduction, gathers = profile.parts[REDUCTION] / step, profile.parts[GATHERS] / step
        found = [Advice(larger_batch, "twice the images for the same gradient communication", share / 2)]
        if config.parallel.gradient_dtype == "fp32" and reduction >= WORTH_SAYING:
            found.append(Advice("parallel.gradient_dtype=bf16", "half the bytes", reduction / 2))
        if config.parallel.batch_norm == "global" and gathers >= WORTH_SAYING:
            why = "batch statistics per process, which changes what is learned"
            found.append(Advice("parallel.batch_norm=rank", why, min(gathers, share)))
        return found
    if kind == UPDATE:
        found = [Advice(larger_batch, "half as many updates for the same images", share / 2)]
        if profile.world_size > 1 and config.parallel.zero_stage == 0:
            saved = share - share / profile.world_size
            found.append(Advice("parallel.zero_stage=1", "each rank updates its shard", saved))
        return found
    faster = profile.peak_bf16 / profile.peak
    if config.train.precision == "fp32" and faster > 1 + WORTH_SAYING:
        return [Advice("train.precision=bf16", "", share * (1 - 1 / faster))]
    if profile.on_gpu and not config.parallel.compile:
        return [Advice("parallel.compile=true", "fewer kernels", None)]
    return [Advice("more processes", "each on its own device: --nproc, --nodes", None)]
