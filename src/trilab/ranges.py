"""Number ranges for constructor signatures.

A configuration is checked against the signatures of the classes it names (`trilab.config.signatures`), before any of
them is imported. So a range belongs in the annotation: `gamma: Fraction = 0.99` is both the documentation and the
check. At run time these are plain `int` and `float`.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
#: [0, 1], both ends included: a discount, a smoothing factor, a share of a whole.
Fraction = Annotated[float, Ge(0), Le(1)]
#: [0, 1): dropout rates and moment decays, for which 1 would mean that nothing gets through.
FractionBelowOne = Annotated[float, Ge(0), Lt(1)]
#: (0, 1]: a share of a whole that may not be nothing.
PositiveFraction = Annotated[float, Gt(0), Le(1)]
