"""What attacks are made of: the target they see, their base classes, losses and shared loops."""

from bench.attack.base import Attack as Attack
from bench.attack.base import AttackResult as AttackResult
from bench.attack.best import Best as Best
from bench.attack.gradient import GradientAttack as GradientAttack
from bench.attack.gradient import Run as Run
from bench.attack.survivors import Survivors as Survivors
from bench.attack.target import Answer as Answer
from bench.attack.target import Climb as Climb
from bench.attack.target import Objective as Objective
from bench.attack.target import Target as Target
from bench.attack.target import Transform as Transform
from bench.attack.target import Wrapped as Wrapped
