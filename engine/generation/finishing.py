"""From the final latents to files that have their names: tried again as long as a disk takes none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoints.keeper import RequestCheckpoints
from engine.checkpoints.names import DONE
from engine.errors import DiskFailure, PeerLost, RankFailure
from engine.execution.loaded import LoadedModel
from engine.generation.decoding import WriteFailed, agree_on
from engine.generation.generation import Generation
from engine.generation.report import write_report
from engine.request import Outputs
from engine.storage.disks import mount_of, refuse_unmounted
from engine.storage.files import StagedFiles, next_free
from engine.storage.private import make_private_folder
from engine.storage.waiting import Outage, Waiting


class Finishing:
    """Decodes and writes the files of one request, on every rank of the replica."""

    def __init__(
        self,
        model: LoadedModel,
        generation: Generation,
        outputs: Outputs,
        waiting: Waiting,
        checkpoints: RequestCheckpoints | None,
    ) -> None:
        """
        Args:
            outputs: the disks that they are on are looked up now, and have to be there in the end.
        """
        self._model = model
        self._generation = generation
        self._outputs = outputs
        self._waiting = waiting
        self._checkpoints = checkpoints
        self._has_committed = False  # perhaps not all files, where a disk became full between two
        self._mounts = {mount_of(path.resolve().parent) for path in outputs.written if model.is_first}

    def run(self, latents: Tensor, needed_bytes: int) -> dict[str, Any] | None:
        """Make all files. Collective over the replica.

        Args:
            latents: final, float32 [samples, channels, frames, height, width], equal on every rank.
            needed_bytes: about what the files take.

        Returns:
            The run report, on the first rank.

        Raises:
            DiskFailure: a disk took no files for longer than a run waits; the final latents are kept if any disk that
                the run knows of took them. On the first rank; PeerLost on the others.
            Paused, Cancelled: some rank's control word said so.
        """
        outage = Outage(self._waiting, "decode")
        while True:
            try:
                document = self._attempt(latents)
                outage.end()
                return document
            except WriteFailed as error:
                failed = error
            if self._checkpoints and not self._checkpoints.is_kept:
                self._checkpoints.keep_elsewhere()
            if not outage.await_next_try(failed.own, needed_bytes):
                raise self._given_up(failed, outage)

    def _attempt(self, latents: Tensor) -> dict[str, Any] | None:
        outputs, generation, is_first = self._outputs, self._generation, self._model.is_first
        document = None
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        with StagedFiles() as files:
            self._agree_on_mounts()
            videos = generation.decode(latents, outputs.video, files) if outputs.video else []
            usage = generation.collect_usage()
            generation.stop_if_asked("write", may_pause=False)
            error, commit = None, None
            try:
                generation.write(latents, outputs.latents if is_first else None, files)
                if is_first:
                    report = self._keep_older(videos, files)
                    document = generation.report(usage, latents, videos)
                    self._stage_report(document, report, files)
                    commit = thread.submit(self._commit, files)  # on a slow disk it takes longer than a collective may
            except OSError as failed:
                error = failed
            thread.shutdown(wait=False)
            self._waiting.until_done(commit, self._folder)
            if commit is not None and isinstance(raised := commit.exception(), OSError):
                error = raised
            elif commit is not None:
                commit.result()
            agree_on(error, self._folder, self._model)
        return document

    def _keep_older(self, videos: Sequence[dict[str, Any]], files: StagedFiles) -> Path | None:
        """Where outputs replace nothing, and another run has finished a video of that name meanwhile, give this one the
        next name that is free. A video without a report is what this very job had left when it was broken off.

        Args:
            videos: entries in the report, whose paths are changed.

        Returns:
            Where the report goes.
        """
        video, report = self._outputs.video, self._outputs.report
        if self._outputs.replaces or self._has_committed or not video or not report:
            return report
        if not (video.exists() and report.exists()):
            return report
        free_video, free_report = next_free(video, report)
        files.redirect(video, free_video)
        for entry in videos:
            entry["path"] = str(free_video)
        self._waiting.progress.note(f"{video} was made by another run meanwhile: this video is {free_video}")
        return free_report

    def _stage_report(self, document: dict[str, Any], report: Path | None, files: StagedFiles) -> None:
        if report:
            write_report(document, files.stage(report))
        if self._outputs.checkpoint:
            make_private_folder(self._outputs.checkpoint)
            write_report(document, files.stage(self._outputs.checkpoint / DONE, private=True))

    def _commit(self, files: StagedFiles) -> None:
        self._refuse_unmounted()
        self._has_committed = True
        files.commit()
        self._refuse_unmounted()

    def _refuse_unmounted(self) -> None:
        for mount in self._mounts:
            refuse_unmounted(mount)

    def _agree_on_mounts(self) -> None:
        error = None
        try:
            self._refuse_unmounted()
        except OSError as unmounted:
            error = unmounted
        agree_on(error, self._folder, self._model)

    @property
    def _folder(self) -> Path:
        """Where the files go, in a line on a disk that takes none."""
        return next((path.parent for path in self._outputs.written), Path())

    def _given_up(self, failed: WriteFailed, outage: Outage) -> RankFailure:
        kept = self._checkpoints.keep_elsewhere() if self._checkpoints else None
        if not self._model.is_first:
            return PeerLost("The first rank's disk took no files.")
        waited = f", also after {outage.seconds:.0f} s" if failed.first.may_pass else ""
        where = f"are kept in {kept}: see to the disk, then resume the run" if kept else "could not be kept anywhere"
        return DiskFailure(
            f"{str(failed.first)[:1].upper()}{str(failed.first)[1:]}{waited}: the final latents {where}."
        )
