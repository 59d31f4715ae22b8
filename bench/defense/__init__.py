"""What defences are made of: base classes, the defended classifier, weights that were trained."""

from bench.defense.base import Defense as Defense
from bench.defense.base import Purifier as Purifier
from bench.defense.base import RobustModel as RobustModel
from bench.defense.base import changes_nothing as changes_nothing
