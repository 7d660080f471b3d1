# The public names. `lazy_loader` reads this file, and so do type checkers.

from .api import assert_embeddings_match as assert_embeddings_match
from .api import compare as compare
from .api import embed as embed
from .api import export as export
from .api import export_precisions as export_precisions
from .api import load as load
from .api import push as push
from .api import record_validation as record_validation
from .api import tune as tune
from .api import validate as validate
from .api import write_golden as write_golden
from .bundle import Bundle as Bundle
from .bundle.pushing import Pushed as Pushed
from .comparison import Comparison as Comparison
from .corpus import EmbedReport as EmbedReport
from .corpus.options import EmbedOptions as EmbedOptions
from .errors import BuildError as BuildError
from .errors import BundleError as BundleError
from .errors import CheckpointError as CheckpointError
from .errors import EngineError as EngineError
from .errors import ExportError as ExportError
from .errors import GateError as GateError
from .errors import HubError as HubError
from .errors import InputError as InputError
from .errors import MissingDependencyError as MissingDependencyError
from .errors import RecipeError as RecipeError
from .errors import ServerError as ServerError
from .errors import UnsupportedModelError as UnsupportedModelError
from .golden import GoldenFacts as GoldenFacts
from .options import ExportOptions as ExportOptions
from .options import TuneOptions as TuneOptions
from .recipe import Recipe as Recipe
from .runtime.encoder import Encoder as Encoder
from .runtime.vector_types import quantize_embeddings as quantize_embeddings
from .stages import Stages as Stages
from .tuning import Tuned as Tuned
from .version import __version__ as __version__

__all__: list[str]
