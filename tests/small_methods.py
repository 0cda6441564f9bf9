"""Every method's settings at a size that steps in milliseconds."""

from trainer.methods import MethodSettings
from trainer.methods.all4one import All4OneSettings
from trainer.methods.barlow_twins import BarlowTwinsSettings
from trainer.methods.byol import BYOLSettings
from trainer.methods.moco_v3 import MoCoV3Settings
from trainer.methods.nnclr import NNCLRSettings
from trainer.methods.simclr import SimCLRSettings
from trainer.methods.vicreg import VICRegSettings
from trainer.queue import QueueSettings

QUEUE = QueueSettings(length=50)
SMALL: dict[str, MethodSettings] = {
    "all4one": All4OneSettings(projector_hidden=16, predictor_hidden=16, embedding=8, queue=QUEUE),
    "barlow_twins": BarlowTwinsSettings(projector_hidden=16, embedding=8),
    "byol": BYOLSettings(projector_hidden=16, predictor_hidden=16, embedding=8),
    "moco_v3": MoCoV3Settings(projector_hidden=16, predictor_hidden=16, embedding=8),
    "nnclr": NNCLRSettings(projector_hidden=16, predictor_hidden=16, embedding=8, queue=QUEUE),
    "simclr": SimCLRSettings(projector_hidden=16, embedding=8),
    "vicreg": VICRegSettings(projector_hidden=16, embedding=8),
}
