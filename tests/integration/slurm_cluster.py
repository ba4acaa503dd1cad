"""A real Slurm on this host: munge, slurmctld and a slurmd for each of three nodes, beside any other."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
ACCOUNTING = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr")
NODES = ("node1", "node2", "node3")
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE"}


def missing(*more: str) -> str | None:
    """Why there can be no cluster here; None if there can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [name for name in (*NEEDED, *more) if shutil.which(name, path=path) is None]
    if lacking:
        return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge mariadb-server slurmdbd"
    if os.geteuid():
        return "a Slurm of one's own wants root"
    return None


class Cluster:
    """Nodes on this host, with as many (fictitious) CPUs as a job may want.

    Args:
        folder: for configuration, state and logs.
        accounting: with slurmdbd, for sacct.
    """

    def __init__(self, folder: Path, accounting: bool = False):
        self.folder, self._accounting = folder, accounting
        self._port, self._mark = _free_ports(12), f"# nodes of {folder}"
        for name in ("etc", "log", "state/ctld", "munge", *(f"state/{n}" for n in NODES)):
            (folder / name).mkdir(parents=True)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
            "PATH": os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]),
        }
        self._processes: dict[str, subprocess.Popen] = {}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        folder, me = self.folder, socket.gethostname().partition(".")[0]
        key = folder / "etc" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        sock = folder / "munge" / "munge.sock"
        lines = [
            # Jobs meet at ports that follow from their numbers: those of two clusters must differ.
            f"FirstJobId={self._port - 16000}", "ClusterName=tests", f"SlurmctldHost={me}(127.0.0.1)", "SlurmUser=root",
            "SlurmdUser=root", "AuthType=auth/munge", "CredType=cred/munge",
            # A requeued job waits as long as a credential lives: 2 minutes if it is not said.
            f"AuthInfo=socket={sock},cred_expire=5", f"SlurmctldPort={self._port}",
            f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd.%n.pid",
            f"StateSaveLocation={folder}/state/ctld", f"SlurmdSpoolDir={folder}/state/%n",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none", "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core", "SlurmdParameters=config_overrides",
            "MpiDefault=none", "SwitchType=switch/none", "ReturnToService=2", "JobRequeue=1",
            "SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0",
            "MinJobAge=3600", "SlurmctldTimeout=10", "SlurmdTimeout=10",
            "InactiveLimit=0", "PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
        ]  # fmt: skip
        if self._accounting:
            lines += [
                "AccountingStorageType=accounting_storage/slurmdbd",
                "AccountingStorageHost=127.0.0.1", f"AccountingStoragePort={self._port + 10}",
                f"AccountingStoragePass={sock}",
            ]  # fmt: skip
        lines += [
            f"NodeName={name} NodeHostname={me} NodeAddr=127.0.0.1 Port={self._port + 1 + i} "
            f"CPUs=16 RealMemory=20000 State=UNKNOWN"
            for i, name in enumerate(NODES)
        ]
        lines += [
            f"PartitionName={name} Nodes={','.join(NODES)} Default={default} PriorityTier={tier} "
            f"MaxTime=04:00:00 DefaultTime=00:30:00 State=UP"
            for name, default, tier in (("batch", "YES", 1), ("urgent", "NO", 2))
        ]
        (folder / "etc" / "slurm.conf").write_text("\n".join(lines) + "\n")
        (folder / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        with _hosts() as lines:
            lines.append(f"127.0.0.1 {' '.join(NODES)} {self._mark}\n")
        self._run(
            "munged", "--foreground", f"--key-file={key}", f"--socket={sock}", "--force",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/log/munged.log",
            f"--seed-file={folder}/munge/seed",
        )  # fmt: skip
        self._until(sock.exists)
        if self._accounting:
            self._start_accounting(sock)
        self._run("slurmctld", "-D", "-c")
        for name in NODES:
            self.start_node(name)

    def _start_accounting(self, sock: Path) -> None:
        folder, port = self.folder, self._port + 10
        database = folder / "database.sock"
        self.call(
            f"mariadb-install-db --no-defaults --user=root --datadir={folder}/mysql "
            f"--auth-root-authentication-method=normal --skip-test-db"
        )
        self._run(
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/mysql",
            f"--socket={database}", "--skip-networking", "--innodb-use-native-aio=0",
            "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        ask = ["mariadb", "--no-defaults", "-uroot", "-S", str(database), "-e"]
        say = "create database slurm_acct; create user slurm@localhost identified by 'slurm';"
        say += "grant all on slurm_acct.* to slurm@localhost;"
        self._until(lambda: not subprocess.run([*ask, "select 1"], capture_output=True).returncode)
        subprocess.run([*ask, say], check=True, capture_output=True)
        conf = folder / "etc" / "slurmdbd.conf"
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={sock}\nDbdHost={socket.gethostname()}\n"
            f"DbdAddr=127.0.0.1\nDbdPort={port}\nSlurmUser=root\nPidFile={folder}/slurmdbd.pid\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser=slurm\n"
            f"StoragePass=slurm\nStorageLoc=slurm_acct\n"
        )
        conf.chmod(0o600)
        self.environment["MYSQL_UNIX_PORT"] = str(database)
        self._run("slurmdbd", "-D")
        self._until(lambda: self._done("sacctmgr -n -i list cluster"))
        for what in ("cluster tests", "account tests cluster=tests", "user root account=tests"):
            self.call(f"sacctmgr -Q -i add {what}")

    def start_node(self, name: str, hidden: Path | None = None, read_only: Path | None = None):
        """Start a node's daemon.

        Args:
            hidden: a folder that is empty on this node, and its own.
            read_only: a folder that nobody can write on this node.
        """
        daemon = ["slurmd", "-D", "-N", name]
        if hidden or read_only:
            mount = (
                f"mount -t tmpfs none {hidden}"
                if hidden
                else (
                    f"mount --bind {read_only} {read_only} && mount -o remount,bind,ro {read_only}"
                )
            )
            daemon = ["unshare", "-m", "sh", "-c", f"{mount} && exec {' '.join(daemon)}"]
        self._run(*daemon, called=name)
        self._until(lambda: name in self.call("sinfo -h -N -t idle -o %N").split())

    def stop_node(self, name: str) -> None:
        """End a node's daemon, as when it is restarted."""
        self._processes[name].terminate()
        self._processes.pop(name).wait(30)

    def kill_node(self, name: str) -> None:
        """A node that loses its power: its daemon and all of a job's processes on it are gone."""
        self._processes[name].kill()
        self._processes.pop(name).wait()
        for pid in self.processes_on(name):
            os.kill(pid, signal.SIGKILL)

    def processes_on(self, name: str) -> list[int]:
        """Processes of jobs on a node, with those of Slurm that watch over them."""
        found = set()
        for pid, variables in self._processes_of_jobs():
            if variables.get("SLURMD_NODENAME") != name:
                continue
            try:
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                found.add(pid)
                if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd"):
                    found.add(int(parent))
            except OSError:
                continue  # it has ended
        return sorted(found)

    def _processes_of_jobs(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Processes that jobs of this cluster have, on any node, each with its environment."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "environ").read_text(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            variables = dict(word.split("=", 1) for word in words if "=" in word)
            mine = variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]
            if mine and "SLURM_JOB_ID" in variables:
                yield int(path.name), variables

    @contextmanager
    def held(self, number: str) -> Iterator[None]:
        """The processes of a job's megaprune do nothing for a while."""
        ranks = [
            pid
            for pid, variables in self._processes_of_jobs()
            if variables.get("SLURM_JOB_ID") == number and _is_rank(pid)
        ]
        assert ranks
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in ranks:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the cluster, and whatever runs on it."""
        if "slurmctld" in self._processes:
            self._done("scancel --user=root")
            end = time.monotonic() + 20
            while time.monotonic() < end and self.call("squeue -h", check=False).strip():
                time.sleep(0.3)
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        with _hosts() as lines:
            lines[:] = [line for line in lines if self._mark not in line]

    def call(self, command: str | list[str], check: bool = True, seconds: float = 60) -> str:
        """What a command says."""
        words = command.split() if isinstance(command, str) else command
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=seconds
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *words: object, cwd: Path, **variables: str) -> str:
        """sbatch; the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, words)],
            env={**self.environment, **variables}, cwd=cwd, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job, by name (JobState, Restarts, ExitCode, ...)."""
        said = self.call(f"scontrol -o show job {number}")
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def ended(self, number: str, seconds: float = 300) -> dict[str, str]:
        """Wait for the end of a job; what Slurm says of it then."""
        # Each look starts a process and asks two daemons.
        self._until(lambda: self.job(number)["JobState"] in _ENDED, seconds, every=0.5)
        return self.job(number)

    def _run(self, *words: str, called: str | None = None) -> None:
        with (self.folder / "log" / f"{called or words[0]}.out").open("ab") as log:
            self._processes[called or words[0]] = subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder / "etc", start_new_session=True,
            )  # fmt: skip

    def _done(self, command: str) -> bool:
        try:
            return not subprocess.run(
                command.split(), env=self.environment, capture_output=True, timeout=20
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def _until(self, seen, seconds: float = 60, every: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while not seen():
            if time.monotonic() > end:
                logs = sorted((self.folder / "log").glob("*"))
                tails = "\n".join(f"{p.name}: {p.read_text()[-600:]}" for p in logs)
                raise AssertionError(f"not within {seconds} s\n{tails}")
            time.sleep(every)


def _is_rank(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("megaprune-")
    except OSError:
        return False  # it has ended


def _free_ports(count: int) -> int:
    """The first of some ports in a row that nobody uses."""
    # Others may be looking at the same time: each begins somewhere else.
    for first in range(17000 + os.getpid() % 500 * count, 30000, count):
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise AssertionError("no free ports")


@contextmanager
def _hosts() -> Iterator[list[str]]:
    """The lines of /etc/hosts, where the nodes' names must be; what is made of them is written."""
    with open("/etc/hosts", "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.readlines()
        yield lines
        file.seek(0)
        file.writelines(lines)
        file.truncate()
