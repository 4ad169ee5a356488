"""Imported before vLLM: hides what vLLM's imports pick up only because it is there.

transformers imports scikit-learn where it finds it (MLflow brings it along), for a way of generating that vLLM does not
have: 15 % of the time that importing an engine takes.
"""

import sys

sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # `find_spec` then says that there is none
