"""Imported before vLLM in the processes of a replica.

Hides what vLLM's imports pick up only because it is there: transformers imports scikit-learn where it finds it (MLflow
brings it along), for a way of generating that vLLM does not have. That is 15 % of the time that importing an engine
takes.

And finds the place of the process's title, which lies before its environment: once that has moved, because somebody
set a variable, an engine could not say any more that it is one.
"""

import sys

import setproctitle

sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # `find_spec` then says that there is none
setproctitle.getproctitle()
