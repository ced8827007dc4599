"""The Flink job in the foreground: `python -m flink.job` starts a mini-cluster and runs the job on it.

It waits for what it needs, goes on from its last checkpoint, and ends on SIGTERM or SIGINT. Exit status: 0 when
told to end, 2 for a wrong setting, 1 when the job or its JVM has failed; whoever runs it starts it again.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import time
from types import FrameType
from typing import Final

from flink import java, waiting
from flink.checkpoints import checkpoints_dir, latest_checkpoint
from flink.configuration import flink_configuration
from flink.pipeline import Pipeline, build
from flink.runtime import RUNNING, FlinkError, Gateway, Job
from flink.security import kafka_properties
from streams.domain.errors import ConfigurationError, PlatformError
from streams.domain.retry import RetryPolicy
from streams.settings import Settings, load_settings

log = logging.getLogger("flink.job")

POLL_S: Final = 0.5
CANCEL_PATIENCE_S: Final = 4.0
JVM_PATIENCE_S: Final = 3.0
LAST_BREATH_S: Final = 1.0
# What the job waits for at start comes within seconds, and nobody is hurt by being asked every second.
WAIT_CAP_S: Final = 1.0


class Stopped(BaseException):
    """SIGTERM or SIGINT has come."""


def main() -> int:
    """Run until told to stop. The exit status."""
    try:
        settings = load_settings()
        _log_to_console(settings.log_level)
        # Everything that can be wrong with the settings is found before anything starts.
        pipeline = build(settings)
        home = java.flink_home()
        command = java.command(settings, java.java_home(os.environ), java.classpath(home, settings.flink_jars_dir))
        temporary = java.scratch(settings)
        # What a killed one has left; nobody else uses the directory.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        # A signal may raise Stopped from here on.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        jvm = java.Jvm(command, os.environ, home, temporary)
        run(settings, pipeline, jvm)
    except Stopped:
        log.info("stopped")
        return 0
    except ConfigurationError as exc:
        print(f"flink.job: {exc}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    except PlatformError as exc:
        log.error("%s: %s", exc.code, exc)  # noqa: TRY400 - the cause is in the message; the trace is Java's
        return 1
    return 1


def run(settings: Settings, pipeline: Pipeline, jvm: java.Jvm) -> None:
    """Run the job in this JVM, and end both whatever happens. Raises what ended it."""
    job: Job | None = None
    try:
        gateway = Gateway(jvm.gateway_port())
        wait_for_dependencies(settings, gateway, jvm)
        job = start(settings, pipeline, gateway)
        watch(job, jvm)
    finally:
        # Once is enough: from here on we are ending.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _end(job, jvm)


def wait_for_dependencies(settings: Settings, gateway: Gateway, jvm: java.Jvm) -> None:
    """Return when Kafka, the registry and the topics are there. Raises JavaError when the JVM ends meanwhile."""
    properties = kafka_properties(settings)

    def lacks() -> waiting.Lack:
        jvm.check()
        lack = waiting.broker_lacks(settings) or waiting.registry_lacks(settings)
        if lack is not None:
            return lack
        topics = gateway.topics(properties)
        return "Kafka's answer about its topics" if topics is None else waiting.topics_lack(topics)

    policy = RetryPolicy(min(settings.retry_base_s, WAIT_CAP_S), WAIT_CAP_S)
    waiting.wait_until_there(lacks, policy, lambda lack: log.info("waiting for %s", lack))


def start(settings: Settings, pipeline: Pipeline, gateway: Gateway) -> Job:
    """Submit the job, from its last checkpoint where there is one."""
    checkpoint = latest_checkpoint(checkpoints_dir(settings.flink_dir))
    log.info("starting %s", "afresh, without a checkpoint" if checkpoint is None else f"from checkpoint {checkpoint}")
    name = f"{settings.app_id}-windows"
    job = gateway.submit(pipeline, flink_configuration(settings, checkpoint), settings.flink_parallelism, name)
    log.info("job %s submitted; web UI at http://127.0.0.1:%d", job.id(), settings.flink_ui_port)
    return job


def watch(job: Job, jvm: java.Jvm) -> None:
    """Follow the job, and say when its state changes. Raises FlinkError or JavaError when it ends."""
    last = ""
    while True:
        jvm.check()
        try:
            state = job.status()
        except FlinkError:
            # When the JVM ends while it is asked, the answer is no more than a broken connection.
            jvm.check(LAST_BREATH_S)
            raise
        if state != last:
            (log.info if state == RUNNING else log.warning)("job is %s", state)
            last = state
        if state in {"FINISHED", "CANCELED"}:
            raise FlinkError(f"the job has ended: {state}")
        time.sleep(POLL_S)


def _end(job: Job | None, jvm: java.Jvm) -> None:
    if job is not None:
        try:
            job.cancel(CANCEL_PATIENCE_S)
        except FlinkError as exc:
            # Also when the job ended by itself; the JVM goes in any case.
            log.debug("job not cancelled: %s", exc)
    jvm.stop(JVM_PATIENCE_S)


def _log_to_console(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    # Each error of py4j reaches us as an exception as well; its log only adds traces of a JVM that is gone.
    handler.addFilter(lambda record: "py4j" not in record.pathname)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
