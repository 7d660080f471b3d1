from .loading import load_checkpoint as load_checkpoint
from .loading import load_source as load_source
from .reference import TOKEN_BUDGET as TOKEN_BUDGET
from .reference import Checkpoint as Checkpoint
