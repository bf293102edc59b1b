"""The settings of LoadGen that a submitter chooses; the others are the standard's, and come with LoadGen."""

from __future__ import annotations

from dataclasses import dataclass

from launch.mlperf.standard import MODEL, Scenario

USER_CONF = "user.conf"


@dataclass(frozen=True)
class Settings:
    """Of one test."""

    queries: int
    """The fewest queries (SingleStream) or samples (Offline)."""
    min_duration_seconds: float
    performance_samples: int
    """How many prompts a performance run draws from."""
    video_seconds: float
    """About how long a replica takes for a video: LoadGen derives from it how many queries fill the duration."""
    replicas: int = 1
    """That share Offline's samples."""

    @property
    def expected_latency_seconds(self) -> float:
        """Of SingleStream. LoadGen makes twice as many queries as fill the duration; half the latency leaves room for
        faster ones, since a test that runs out of queries does not count."""
        return self.video_seconds / 2

    @property
    def expected_samples_per_second(self) -> float:
        """Of Offline. LoadGen adds a tenth, and so do we, since a list that ends before the duration does not count."""
        return 1.1 * self.replicas / self.video_seconds

    def user_conf(self, scenario: Scenario) -> str:
        """The same as the text of a submission's user.conf."""
        values: dict[str, str] = {
            "min_duration": f"{round(self.min_duration_seconds * 1000)}",
            "min_query_count": f"{self.queries}",
            "performance_sample_count_override": f"{self.performance_samples}",
        }
        if scenario is Scenario.SINGLE_STREAM:
            values["target_latency"] = f"{1000 * self.expected_latency_seconds:.6f}"
        else:
            values["target_qps"] = f"{self.expected_samples_per_second:.6f}"
        return "".join(f"{MODEL}.{scenario.loadgen_name}.{key} = {value}\n" for key, value in values.items())
