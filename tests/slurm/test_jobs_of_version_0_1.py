"""A job that version 0.1 left in the queue starts under the version that is installed when its turn comes."""

import shutil
import sys
import tarfile
from pathlib import Path

from slurm_cluster import Cluster

from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "version_0_1"


def test_a_queued_job_trains_its_run(cluster: Cluster, tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / "run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    run = RunFolder(tmp_path / "runs" / "queued")
    shutil.copytree(FIXTURES / "queued", run.path)
    run.logs.mkdir()
    slurm = run.path / "slurm"
    template = (slurm / "submission.sh").read_text()
    script = slurm / "job.sh"
    script.write_text(template.replace("@FOLDER@", str(tmp_path)).replace("@PYTHON@", sys.executable))
    # held, since submitit's pickle is named by the number that the job gets
    job = cluster.run("sbatch", "--parsable", "--hold", f"--chdir={tmp_path}", str(script)).strip()
    (slurm / "submitted.pkl").rename(slurm / f"{job}_submitted.pkl")
    cluster.run("scontrol", "release", job)
    ended = cluster.wait_for_state(job, "COMPLETED", "FAILED", "CANCELLED", timeout=120)
    output = "\n".join(path.read_text() for path in [*slurm.glob("*.out"), *run.logs.glob("*/*.log")])
    assert ended["JobState"] == "COMPLETED", output
    assert [r["reason"] for r in read_records(run.ledger) if r["event"] == "end"] == ["finished"]
    assert max(r["step"] for r in read_records(run.metrics)) == 12
