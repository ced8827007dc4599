"""The one place that touches PyFlink and, through its gateway, Java; both come without types."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from flink.pipeline import Pipeline
from flink.security import Options
from streams.domain.errors import KafkaAccessError, PlatformError

ADMIN_TIMEOUT_S: Final = 5
CLOSE_TIMEOUT_S: Final = 1
RUNNING: Final = "RUNNING"

_KAFKA: Final = "org.apache.flink.kafka.shaded.org.apache.kafka"


class FlinkError(PlatformError):
    """Flink refused the job, or the job has failed; the message is the root cause."""

    code = "flink"


class Gateway:
    """The way into the JVM whose gateway listens on this port."""

    def __init__(self, port: int) -> None:
        # PyFlink connects to this port instead of starting a JVM of its own.
        os.environ["PYFLINK_GATEWAY_PORT"] = str(port)
        # Or it starts a server for Python functions at once, and imports Beam for it: seconds, and 200 MB.
        os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 - PyFlink's name
        from pyflink.java_gateway import get_gateway

        self._gateway: Any = get_gateway()

    def topics(self, properties: Options) -> frozenset[str] | None:
        """The names of all Kafka topics that we may see, or None where the broker does not answer in time.

        Raises KafkaAccessError where it refuses us.
        """
        from py4j.protocol import Py4JJavaError

        jvm = self._gateway.jvm
        java_properties = jvm.java.util.Properties()
        for name, value in revealed(properties).items():
            java_properties.setProperty(name, value)
        for name in ("request.timeout.ms", "default.api.timeout.ms"):
            java_properties.setProperty(name, str(ADMIN_TIMEOUT_S * 1000))
        kafka: Any = jvm
        for part in _KAFKA.split("."):
            kafka = getattr(kafka, part)
        admin: Any = None
        try:
            admin = kafka.clients.admin.AdminClient.create(java_properties)
            # As one text: a Java set would be fetched name by name.
            return frozenset(jvm.String.join("\n", admin.listTopics().names().get()).split("\n"))
        except Py4JJavaError as exc:
            cause = root_cause(str(exc), properties)
            if "TimeoutException" in cause:
                return None
            raise KafkaAccessError(f"Kafka refuses us: {cause}") from exc
        finally:
            if admin is not None:
                admin.close(jvm.java.time.Duration.ofSeconds(CLOSE_TIMEOUT_S))

    def submit(self, pipeline: Pipeline, configuration: Mapping[str, str], parallelism: int, name: str) -> Job:
        """Start the mini-cluster with the job in it. Raises FlinkError."""
        from pyflink.common import Configuration
        from pyflink.datastream import StreamExecutionEnvironment
        from pyflink.table import StreamTableEnvironment

        secrets = {key: value for table in pipeline.tables for key, value in table.options.items()}
        flink: Any = Configuration()
        for key, value in configuration.items():
            flink.set_string(key, value)
        try:
            env: Any = StreamExecutionEnvironment.get_execution_environment(flink)
            # One task reads and tells late events from others (docs/adr): what the planner makes before the first
            # shuffle takes the parallelism of now, what comes after it that of later.
            env.set_parallelism(1)
            tables: Any = StreamTableEnvironment.create(env)
            for table in pipeline.tables:
                tables.execute_sql(table.ddl())
            for view in pipeline.views:
                tables.execute_sql(view)
            statements: Any = tables.create_statement_set()
            for insert in pipeline.inserts:
                statements.add_insert_sql(insert)
            statements.attach_as_datastream()
            env.set_parallelism(parallelism)
            client: Any = env.execute_async(name)
        except _java_errors() as exc:
            raise FlinkError(root_cause(str(exc), secrets)) from exc
        return Job(client._j_job_client, self._gateway.jvm, secrets)  # noqa: SLF001 - futures with a timeout


class Job:
    """The job that runs."""

    def __init__(self, client: Any, jvm: Any, secrets: Options) -> None:
        self._client = client
        self._jvm = jvm
        self._secrets = secrets

    def id(self) -> str:
        """Its id in Flink's REST API."""
        return str(self._client.getJobID().toString())

    def status(self) -> str:
        """Its state, as Flink names it. Raises FlinkError when it has failed, or its cluster is gone."""
        try:
            state = str(self._wait(self._client.getJobStatus(), ADMIN_TIMEOUT_S).name())
            if state == "FAILED":
                self._wait(self._client.getJobExecutionResult(), ADMIN_TIMEOUT_S)
        except _java_errors() as exc:
            raise FlinkError(root_cause(str(exc), self._secrets)) from exc
        return state

    def cancel(self, patience_s: float) -> None:
        """End it; open transactions are aborted, its last checkpoint stays. Raises FlinkError where it does not end."""
        try:
            self._wait(self._client.cancel(), patience_s)
        except _java_errors() as exc:
            raise FlinkError(root_cause(str(exc), self._secrets)) from exc
        try:
            self._wait(self._client.getJobExecutionResult(), patience_s)
        except _java_errors() as exc:
            if "JobCancellationException" not in str(exc):
                raise FlinkError(root_cause(str(exc), self._secrets)) from exc

    def _wait(self, future: Any, seconds: float) -> Any:
        return future.get(int(seconds * 1000), self._jvm.java.util.concurrent.TimeUnit.MILLISECONDS)


def root_cause(stack_trace: str, secrets: Options) -> str:
    """The last cause that a Java stack trace names, on one line and without these secrets."""
    lines = [line.strip() for line in stack_trace.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    # py4j puts a line of its own before the exception: "An error occurred while calling ...\n: java.lang..."
    first = next((line.removeprefix(": ") for line in lines if line.startswith(": ")), lines[0] if lines else "unknown")
    text = causes[-1] if causes else first
    for value in secrets.values():
        if isinstance(value, SecretStr) and value.get_secret_value():
            text = text.replace(value.get_secret_value(), str(value))
    return text


def revealed(options: Options) -> dict[str, str]:
    """The options with their secrets in clear, for Java."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in options.items()
    }


def _java_errors() -> tuple[type[Exception], ...]:
    from py4j.protocol import Py4JError
    from pyflink.util.exceptions import JavaException

    return (Py4JError, JavaException)
