"""Report sections that need images and weights: the feature map, neighbors from the queue, and views."""

from collections.abc import Iterator

from data_pipelines.errors import UserError
from launch.report.charts import data_uri, map_chart
from launch.report.facts import RunFacts
from launch.report.page import Cell, Gallery, Section, Tile, TileRow
from trainer.visualization.feature_map import feature_map
from trainer.visualization.neighbor_galleries import NeighborGallery, NeighborRow, Seen, neighbor_galleries
from trainer.visualization.view_rows import view_rows


def picture_sections(facts: RunFacts, how: str | None) -> Iterator[Section]:
    """Yield one section after the other.

    If a section cannot be made because images or checkpoints are missing, it contains the reason. Sections that do not
    apply to the run, such as neighbors without a queue, are left out.

    Args:
        facts: facts of the run.
        how: projection of the feature map: `umap`, `t-sne` or `pca`. None: the best one that is installed.
    """
    makers = {
        "Map of features": lambda: _map(facts, how),
        "Neighbors": lambda: _neighbors(facts),
        "Views": lambda: _views(facts),
    }
    for title, make in makers.items():
        try:
            section = make()
        except UserError as error:
            section = Section(title, words=f"Not shown: {error}")
        if section is not None:
            yield section


def _map(facts: RunFacts, how: str | None) -> Section:
    found = feature_map(facts.run, how=how)
    chart, legend = map_chart(found)
    images = "Validation images" if found.of_validation else "Training images (the run has no validation set)"
    return Section(
        "Map of features",
        words=f"{images}, placed by the features of the frozen backbone. Nearby images have similar features. "
        "Large distances mean little.",
        legend=list(legend.items()),
        charts=[chart],
        wide=True,
    )


def _neighbors(facts: RunFacts) -> Section | None:
    galleries = neighbor_galleries(facts.run)
    if not galleries:
        return None
    return Section(
        "Neighbors",
        words="The same training images at several checkpoints. Each row shows the nearest keys of that checkpoint's "
        "queue with their cosine similarity, nearest first, computed by networks in evaluation mode. A solid green "
        "frame marks the class of the image, and a dashed red frame marks another class. The image's own keys are "
        "skipped. A dash (–) marks a random key from before training, or an image that cannot be read.",
        galleries=[Gallery(_title(found), [_row(row) for row in found.rows]) for found in galleries],
    )


def _title(found: NeighborGallery) -> str:
    agreement = (
        f": {100 * found.agreement:.0f} % of the neighbors have the class of their image"
        if found.agreement is not None
        else ""
    )
    return f"Step {found.step:,}{agreement}"


def _row(row: NeighborRow) -> TileRow:
    return TileRow(
        _tile(row.image),
        [
            Cell(_tile(seen) if seen else None, _match(row.image, seen), f"{cosine:.2f}")
            for seen, cosine in zip(row.neighbors, row.cosines, strict=True)
        ],
    )


def _match(image: Seen, seen: Seen | None) -> str:
    if seen is None or image.label < 0 or seen.label < 0:
        return ""
    return "same" if seen.label == image.label else "other"


def _tile(seen: Seen) -> Tile:
    return Tile(data_uri(seen.jpeg, "jpeg"), seen.name)


def _views(facts: RunFacts) -> Section | None:
    sizes = [view.size for view in facts.config.data.views]
    rows = [
        TileRow(
            Tile(data_uri(row.original, "jpeg"), row.name),
            [
                Cell(
                    Tile(data_uri(view, "jpeg"), f"view {n} of {row.name or 'an image'}"),
                    words=f"view {n}, {size} px",
                )
                for n, (view, size) in enumerate(zip(row.views, sizes, strict=True))
            ],
        )
        for row in view_rows(facts.run)
    ]
    if not rows:
        return None
    return Section(
        "Views",
        words="Training images and their views in the first epoch, with the augmentations of this run.",
        galleries=[Gallery("", rows)],
    )
