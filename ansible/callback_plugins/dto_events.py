"""Tells the program that started ansible-playbook what happens, one JSON object a line.

The events go to the file descriptor in DTO_EVENTS_FD; what people read goes to the log, as ever.
Results of `no_log` tasks arrive here already censored.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: dto_events
    type: notification
    short_description: events for `dto cluster`
    description:
      - Writes plays, tasks, changes, failures and the recap as JSON lines.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "dto_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._descriptor = int(os.environ.get("DTO_EVENTS_FD", "-1"))
        self.disabled = self._descriptor < 0

    def _tell(self, event: str, **facts: Any) -> None:
        raw = json.dumps({"event": event, **facts}, default=str).encode() + b"\n"
        try:
            while raw:
                raw = raw[os.write(self._descriptor, raw) :]
        except OSError:  # whoever listened is gone; the signal that ends us is on its way
            self.disabled = True

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._tell("play", name=play.get_name())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._tell("task", **_place(task))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._tell("task", **_place(task))

    def v2_runner_on_ok(self, result: Any) -> None:
        found = result._result
        if found.get("changed"):
            self._tell("changed", host=result._host.get_name(), **_place(result._task))
        if result._task.action in ("debug", "ansible.builtin.debug"):
            for item in found.get("results") or [found]:
                if isinstance(item, dict) and "msg" in item and not item.get("skipped"):
                    place = _place(result._task)
                    self._tell("said", host=result._host.get_name(), text=item["msg"], **place)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._tell_failure("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if not result._task.ignore_unreachable:
            self._tell_failure("unreachable", result)

    def _tell_failure(self, event: str, result: Any) -> None:
        facts = {key: result._result[key] for key in _KEPT if key in result._result}
        facts["results"] = [
            {key: item[key] for key in (*_KEPT, "failed", "item") if key in item}
            for item in result._result.get("results") or []
            if isinstance(item, dict) and item.get("failed")
        ]
        place = _place(result._task)
        self._tell(event, host=result._host.get_name(), result=facts, **place)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {name: stats.summarize(name) for name in sorted(stats.processed)}
        self._tell("end", hosts=hosts)


_KEPT = ("msg", "stderr", "stdout", "rc", "censored", "cmd")


def _place(task: Any) -> dict[str, str]:
    role = task._role.get_name() if task._role else ""
    return {"task": task.name or task.action, "role": role, "path": task.get_path() or ""}
