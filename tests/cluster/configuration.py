"""The cluster's configuration files, in keys that Slurm 21.08 to 24.11 know."""

SLURM_CONF = """\
ClusterName=bertjobs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmUser=root
FirstJobId={first_job}
AuthType=auth/munge
# A requeued job waits for its old credential to expire: 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg={folder}/mail
ProctrackType=proctrack/linuxproc
MpiDefault=none
PropagateResourceLimits=NONE
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd_port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=600
SlurmctldTimeout=60
SlurmdTimeout=300
MessageTimeout=30
ReturnToService=2

GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node[1-{nodes}] NodeAddr=127.0.0.1 NodeHostname={host} Port=[{first_port}-{last_port}] \
CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=batch Nodes=node[1-{nodes}] Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-0 State=UP
PartitionName=urgent Nodes=node[1-{nodes}] PriorityTier=10 PreemptMode=OFF MaxTime=1-0 State=UP
"""

MAIL_PROGRAM = """\
#!/bin/sh
# Slurm calls it as mail: -s SUBJECT ADDRESS.
echo "$*" >>{folder}/log/mail
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd_port}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_accounting
"""

GRES_CONF = "NodeName=node[1-{nodes}] Name=gpu File={folder}/gpu/[0-{last_gpu}]\n"

DATABASE_SQL = """\
CREATE DATABASE slurm_accounting;
CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER slurm@localhost IDENTIFIED BY '{password}';
GRANT ALL ON slurm_accounting.* TO slurm@'127.0.0.1';
GRANT ALL ON slurm_accounting.* TO slurm@localhost;
"""


def cgroup_conf(version: tuple[int, int]) -> str:
    """cgroup.conf for a Slurm of this (year, month): without systemd it starts only with v1 or without cgroups."""
    return f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n"
