"""The run launcher: runs start in the warm process where there is one, else as Dagster starts them of itself.

What lives here: Dagster's view of `warm.py`, named in the instance's `dagster.yaml`. What does not: runs of the command
line, which run in its own process (`launching.py`).
"""

from pathlib import Path

from dagster import DagsterRun
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData

from junk_leads.running.dagster_store import keep_open
from junk_leads.running.warm import ask


class WarmRunLauncher(DefaultRunLauncher):
    """Asks the warm process of `junk-leads ui`; without one (`dagster dev` alone) it is the default launcher."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        keep_open()  # it is the daemon that asks for runs, each of which is told in some fifty events before it starts

    @property
    def _folder(self) -> Path:
        return Path(self._instance.root_directory)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run's process."""
        run = context.dagster_run
        if context.job_code_origin is not None:
            arguments = ExecuteRunArgs(context.job_code_origin, run.run_id, self._instance.get_ref())
            command = list(arguments.get_command_args())
            asked = {"run_id": run.run_id, "execute": command[command.index("api") :]}
            if ask(self._folder, asked) is not None:
                return
        super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """End a run as a person asks for it in the UI; whether there was one to end."""
        run: DagsterRun | None = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if (ask(self._folder, {"terminate": run_id}) or {}).get("terminated"):
            self._instance.report_run_canceling(run)
            return True
        return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
