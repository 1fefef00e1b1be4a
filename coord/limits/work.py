"""Bounds of what agents coordinate with: tasks, presence, latches, deciders."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from coord.limits.spine import (
    EVENT_BYTES_MAX,
    KIB,
    MIB,
    RPC_REQUEST_BYTES_MAX,
    RPC_TIMEOUT_S,
    TAKEOVER_S,
    TOKEN_BYTES_MAX,
    TRIM_END,
)

# --- tasks --------------------------------------------------------------------------------

PRIORITY_SHARES: Final = {"critical": 8, "normal": 3, "batch": 1}
"""What each priority gets of a worker that has work of all of them; what one does not use the others have."""

TASK_RETRIES: Final = 3
"""Executions after the first that failed."""

TASK_RETRIES_MAX: Final = 1_000
TASK_DEATHS_MAX: Final = 10
"""Claims of one task that may end because their agent died, hung or overran: a task that kills whoever
takes it must end, while a fleet that is being restarted loses nothing."""

TASK_BACKOFF_S: Final = 1.0
TASK_BACKOFF_MAX_S: Final = 60.0
TASK_TIMEOUT_S: Final = 600.0
"""One execution."""

TASK_TIMEOUT_MAX_S: Final = 7 * 86_400.0
TASK_TIMEOUT_GRACE_S: Final = 2.0
"""After its timeout a claim is still its agent's for so long: the agent ends the handler itself and says so."""

TASK_INLINE_BYTES: Final = 256 * KIB
"""Input or output in the fact itself; larger ones are objects of the bucket PAYLOADS."""

TASK_PULL_EXPIRES_S: Final = 30.0
"""How long an idle worker's pull waits with the broker."""

CAPACITY_MAX: Final = 10_000
"""Tasks of one capability that one agent runs at once."""

BOARD_STALE_S: Final = 5.0
"""A capability's board is said every second; when it has been silent for so long nobody is held up by it."""

SUBMIT_WAIT_S: Final = 5.0
"""How long `submit` waits for a capability to be below its bound before it raises `Overloaded`."""

RESULT_AUDIT_FIRST_S: Final = 2.0
RESULT_AUDIT_MAX_S: Final = 30.0
RESULT_AUDIT_APART_S: Final = 0.02
"""Who waits for an outcome and is told nothing reads the log after this, doubling; one of
a connection's waiters at a time, 50 a second."""

TASK_PULL_HASTY_S: Final = 2.0
"""And of one that holds claims: when it is found to hang, nothing of its waits with the broker any more."""

TASK_LOOKS_MAX: Final = 32
"""Tasks that one worker reads at a time before it claims what was delivered again: after a broker came back that may
be everything, and what all ask at once is answered to nobody in time."""

STORED_LOOKS_MAX: Final = 20
STORED_LOOK_AGAIN_S: Final = 0.05
"""Who knows that something is stored, and is not shown it, looks so often, this far apart: what answers may lag."""

TASKS_RAN_MAX: Final = 1_000
"""Tasks of which a worker knows under which claim it ran them last: none is run twice under one while readers lag."""

TASK_FACTS_MAX: Final = 10_000
"""Facts of one task that a client reads to know it: a thousand attempts have a tenth of them."""

TASK_OUTPUT_BYTES_MAX: Final = 64 * MIB
"""Input or output of a task, by reference too."""

STEPS_MAX: Final = 1_000
"""Recorded steps of one task: each is a fact of it, and whoever executes it after a death reads them all."""

STEP_NAME_CHARS_MAX: Final = 256

STEP_INLINE_BYTES: Final = 64 * KIB
"""What a step gave and is longer travels by reference: a thousand of them are read at once."""

FLOW_STEPS_MAX: Final = 500
"""Steps of one workflow, those of its sub-workflows not counted."""

FLOW_DEPTH_MAX: Final = 4
"""Workflows inside of each other."""

FLOW_ITEMS_MAX: Final = 10_000
"""Members of a fan-out."""

FLOW_PARALLELISM: Final = 5
"""How many of them run at once where the step does not say it."""

FLOW_NAME_BYTES_MAX: Final = 48
"""A step's name: its tasks add an item's number or ``undo_`` to it, and are tokens of 64 bytes."""

FLOW_BYTES_MAX: Final = 768 * KIB
"""A workflow's definition and input together, a step's input, or its output where those of a fan-out are put
together: what must fit into one fact beside the rest."""

FLOW_NAMED_MAX: Final = 10_000
"""Tasks that a workflow's end names as undone, or not: a whole fan-out's; of more the number is said."""

FLOW_RERUNS_MAX: Final = 100
"""Ids that are tried for a rerun that nobody named: ``{workflow}-r2`` and so on."""

LOCAL_STEPS_MAX: Final = 16
"""Local steps that are offered with one task: a longer line goes on with a task of its own."""

LOCAL_BYTES_MAX: Final = 8 * KIB
"""What is offered with one task, as JSON: deciders hold it for as long as the task is open."""

LOCAL_OUTPUT_BYTES_MAX: Final = 256 * KIB
"""No local step is begun once those before it gave so much: each output may be as long as a task's, inline."""

LOCAL_S: Final = 1.0
"""So long after a task began its agent begins no further local step: what a death makes happen again is little, and
what others wait for is told soon."""

LOCAL_CROWDED_S: Final = 0.1
"""The same where the agent has no slot free, so that something more urgent may wait for this one."""

FLOW_EXPRESSION_MAX: Final = 4_000
"""Characters of one condition."""

RULES_MAX: Final = 1_000
"""Rules of one decision table."""

RULE_TABLES_MAX: Final = 1_000
"""Decision tables that a partition's decider holds: those set by facts."""

PLACEMENT_CANDIDATES_MAX: Final = 64
"""Agents that are compared at once, 5 µs each; of more the first part in which somebody is eligible, and for each
task another one is first."""

PLACEMENT_LOOK_MAX: Final = 16
"""Kinds of waiting tasks that are tried when a slot is freed, those first whose turn it is."""

PLACEMENT_HISTORIES_MAX: Final = 10_000
"""Agents whose outcomes the scheduler of a process remembers, per capability."""

PLACEMENT_STALE_S: Final = 3.0
"""A partition's scheduler that has not looked at the time for so long has lost its partition to another process."""

PLACEMENT_AGAIN_MAX_S: Final = 30.0
"""Between two rounds of offers of a task that nobody accepts: a second, doubled up to this."""

QUEUE_ACK_WAIT_S: Final = 30.0
"""ack_wait of the queues: five times the worst failover; a live claim is extended every third of it."""

QUEUE_ACK_PENDING_MAX: Final = 200_000
"""max_ack_pending of a queue: claimed, waiting and prefetched deliveries; a full one stalls newer work of it."""

CAPABILITIES_MAX: Final = 500
"""Capabilities with queues, all tenants together: three consumers each, of the server's 1,000 by default per
stream it is raised to 4,096 (streams/EVENTS.toml)."""

QUEUE_UNUSED_S: Final = 3_600.0
"""A capability without work and without agents loses its queues after this."""

ENDED_MARGIN_S: Final = 86_400.0
"""What ended stays in its table for so long after the log has forgotten it, whatever `ages.retain_days` says: until
a row is gone, its projector knows that it was there, and a used id is known for one."""

USED_IDS_MAX: Final = 400
"""Ids in one question whether they were used before: with their keys they fit into a request."""

USED_WAIT_S: Final = 15.0
"""How long a submission under a chosen id waits for a service that cannot tell, its database being away."""

USED_DATABASE_S: Final = 2.0
"""How long the service waits for the database each time: the client asks again."""

USED_CIRCUIT_S: Final = 1.0
"""And after failures for so long at most it does not ask the database."""

USED_WHOLE_S: Final = 5.0
"""For so long a client does not ask again, when the log holds all that the tables know."""

USED_MARGIN_S: Final = 60.0
"""What began so shortly after the log's first fact may leave the log before a submission that asks now is stored, and
is named as if it had left: until then pass USED_WHOLE_S, USED_WAIT_S and SUBMIT_WAIT_S at most."""

USED_READS_MAX: Final = 16
"""Entities that are read from the log at a time, of many that may have left it."""

# --- presence -----------------------------------------------------------------------------

HEARTBEAT_S: Final = 1.0
"""How often an agent that holds claims says that it is there; HEARTBEAT_IDLE_S for one that holds nothing."""

HEARTBEAT_IDLE_S: Final = 5.0
SUSPECT_AFTER: Final = 1.5
"""Heartbeats that were due and did not come until an instance is suspect;"""
GONE_AFTER: Final = 2.5
"""and until it is gone: a hung worker's claims move within 3 s."""

RESTING_BEATS_PER_S: Final = 50
"""Heartbeats of all workers who stand by, together: the more there are the more rarely each beats, as far as
HEARTBEAT_EVERY_MAX_S.  Nothing is given to them, and each beat of another agent wakes up the broker and coord."""

HEARTBEAT_EVERY_MIN_S: Final = 0.1
HEARTBEAT_EVERY_MAX_S: Final = 60.0
"""What an instance may say of how often it beats."""

DISCONNECT_GRACE_S: Final = 0.06
"""After the server has said that a connection died.  Clients reconnect at once the first time (5 to 20 ms on
one machine) and beat; a killed process is to be gone within 100 ms, the server's 2 ms and a turn of ours included."""

DISCONNECT_MASS: Final = 16
"""So many instances that lost their connections within the grace, and a quarter of all, are no deaths but a
restarted server or network: their heartbeats decide.  Unless they are less than half, and none of them is back within
DISCONNECT_MASS_GRACE_S: clients try at once, and those of a process that was killed do not.  What stands between a
fleet and its server mostly takes all with it; that 0.2 s is enough rests on one comparison (ADR 0139)."""
DISCONNECT_MASS_GRACE_S: Final = 0.2

LEFT_WAIT_S: Final = 5.0
"""Who says goodbye has stated `left` before: deciders wait so long for that fact until they state `gone` instead.  What
it held is free at once."""

PRESENCE_SETTLE_S: Final = 5.0
"""After our own start, or after we were cut off ourselves, nobody is gone before they had the time to beat."""

PRESENCE_RETURN_S: Final = 30.0
"""After we were cut off nobody is gone, either, while others are heard again for the first time, but not for longer:
a broker takes the connections of a fleet one after another, those of 5,000 for ten seconds and more."""

PRESENCE_TICK_S: Final = 0.25
PRESENCE_STALL_S: Final = 1.0
"""A tick that comes so late means that we stood still, not that everybody else did."""

PRESENCE_ECHO_S: Final = 0.5
"""How often a board sends itself a message through the broker; three that do not come back mean that it is deaf."""

PRESENCE_INSTANCES_MAX: Final = 100_000
"""Instances a process watches, about 1 KiB each; more are counted and taken for alive."""

PRESENCE_PER_AGENT_MAX: Final = 2_048
"""Instances under one name that are there; one more is refused.  Whoever starts one for every message harms nobody."""

REGISTER_AGAIN_S: Final = 5.0
REGISTER_AGAIN_MAX_S: Final = 600.0
"""When an instance that was refused registers again, doubled each time: others may have ended.  Each is a fact."""

PRESENCE_KEPT_S: Final = 600.0
"""How long one that is gone is still shown."""

HEARTBEAT_BYTES_MAX: Final = 16 * KIB
REGISTRATION_CAPABILITIES_MAX: Final = 64
REGISTRATION_LABELS_MAX: Final = 64
LABEL_BYTES_MAX: Final = 256

DISCOVERY_ANSWERS_PER_S: Final = 20
"""Of one instance, to NATS's service discovery."""

AGENTS_FOUND: Final = 100
AGENTS_FOUND_MAX: Final = 1_000
"""Instances in one answer of `agents.find`."""

QUOTA_LOOKS: Final = 3
"""Looks in a row, a second apart, at which an agent uses more than its quota until it is quarantined."""

QUOTA_RATE_SLACK: Final = 1.25
"""So much more than its facts per second an agent may be seen to state: a second's worth may come at once, and a
batch of them just before or after a look."""

QUARANTINE_S: Final = 60.0
"""How long at least."""

QUARANTINE_AGAIN_S: Final = 5.0
"""Who says otherwise of itself for so long is told again that it is quarantined, or is not: a push may be lost, and
nobody else would ever tell it."""

QUARANTINE_TOLD_S: Final = 1.0
"""What an agent claims within this after it was quarantined it keeps: it may not have heard of it yet."""

QUARANTINE_RETRY_S: Final = 1.0
"""When a task that a quarantined agent claimed later than that is delivered again: doubled with each such claim of
it, to `QUARANTINE_S`.  The broker gives to whoever asks, and a client that does not know of quarantine asks on."""

CAPABILITY_WINDOW_S: Final = 30.0
CAPABILITY_OUTCOMES_MIN: Final = 20
CAPABILITY_FAILING: Final = 0.5
"""A capability's circuit opens when half of at least twenty executions of the last thirty seconds failed."""

CAPABILITY_OPEN_S: Final = 10.0
CAPABILITY_OPEN_MAX_S: Final = 300.0
CAPABILITY_PROBES: Final = 3
"""Executions that must end well, with none that fails, until it is closed again."""

CAPABILITY_DEPTH: Final = 100_000
"""Tasks of one capability that may wait before submitters are held up: half of what its queues hand out
(QUEUE_ACK_PENDING_MAX), so that what plain clients submit on top is still delivered."""

DECIDER_PROCESSES_MAX: Final = 256
"""Processes with deciders whose parts of the board are added up."""

QUOTA_AGENTS_MAX: Final = 256
"""Agents with a quota of facts per second whose facts are counted, each by a subscription; more are not."""

BOARD_EVERY_S: Final = 1.0
"""How often a capability's depth is said; sooner when it has changed a lot."""

ENTITY_FOLD_BYTES_MAX: Final = 4 * MIB
"""A saved fold in a table of entities.  Ten thousand requests of one lock are 2 MiB; the others are far below."""

ENTITY_TEXT_CHARS: Final = 4_096
"""Of an error's message or a reason in those tables; the log and `coord.event` have all of it."""

ENTITY_LISTED_MAX: Final = 1_000
"""Waits, requests and instances that a row lists, those that came first; its counts are of all."""

REGISTRY_ENDED_KEPT: Final = 64
"""Instances of an agent that are not there any more, in its row: those that came last."""

SIGNAL_WAITS_MAX: Final = 10_000
"""Who waits for one signal; another wait is refused."""

# --- signals, timers, locks, flags, handoffs ------------------------------------------------

SIGNAL_NAMES_MAX: Final = 64
"""Signals that one wait waits for, or provides."""

SIGNAL_TOLD_BYTES: Final = KIB
"""Of a signal's data: more is read from the log, a decider keeps no more."""

SIGNAL_LATCHES_MAX: Final = 100_000
"""Latches that one partition's decider holds; then the oldest raised one is forgotten, and counted."""

SIGNAL_KEPT_S: Final = 7 * 86_400.0
"""How long the raised signals of a piece of work are known; those of the tenant are for good."""

ENTITY_FACTS_MAX: Final = 100_000
"""Facts that a client folds of one kind, key or entity."""

HISTORY_ENTITIES_MAX: Final = 10_000
"""Entities of one key that are folded while its history is read; facts about others are shown as they are."""

HISTORY_SHOWN_MAX: Final = 10_000
"""Facts that are shown beside a state: the newest.  `coord event history` has all of them."""

HISTORY_IDLE_S: Final = 600.0
"""Who reads a history, a person with a pager perhaps, may stop for so long; then the database ends it."""

CLOCK_STEP: Final = timedelta(minutes=10)
"""By how much a broker's clock may step back: states at a time are right all the same.  NTP steps are seconds."""

TIMERS_MAX: Final = 100_000
"""Timers that are set in one partition; another one is refused."""

TIMERS_NUMBERED_MAX: Final = 10_000
"""Timers of one partition that are over and whose tasks' numbers are remembered, should they be set again."""

TIMER_AHEAD_MAX_S: Final = 365 * 86_400.0
"""A day below the age of what TIMERS holds."""

TIMER_EVERY_MIN_S: Final = 1.0
"""The server's own bound."""

TIMER_LATE_S: Final = 5.0
"""What has not fired so long after it was due is armed again; the server is 2 ms late, 250 ms after it was away."""

TIMER_DUE_TTL_S: Final = 3_600
"""How long TIMERS keeps what was due: the log takes it in at once, or when its server is back."""

TIMER_UNMET_S: Final = 3_600.0
"""A task that a timer has submitted, and that the log does not have so long after, runs no more: its id was taken."""

TIMER_THEN_BYTES: Final = 16 * KIB
"""What a timer submits or raises: its decider holds it."""

LOCK_REQUESTS_MAX: Final = 10_000
"""Who holds one lock or waits for it; another one is refused."""

LOCK_PERMITS_MAX: Final = 10_000

LOCK_AUDIT_FACTS_MAX: Final = 5_000
"""Facts of one lock that whoever waits for it reads to see whether it is his; of more its decider is asked."""

LOCK_GIVE_BACK_S: Final = 2.0
"""So long a release waits for a broker that does not answer; it goes on behind the caller's back, every so often."""

LOCK_LOOK_AGAIN_S: Final = 0.2
"""After a reconnect: when a log that could not be read is read again, doubling."""

LOCK_TTL_S: Final = 30.0
"""How long a plain client, of which nobody knows whether it lives, holds a lock unless it renews;"""
LOCK_TTL_MIN_S: Final = 1.0
LOCK_TTL_MAX_S: Final = 7 * 86_400.0
"""and what others may ask for."""

FLAGS_MAX: Final = 10_000
"""Flags of the tenants of one partition; another one is refused."""
FLAG_RULES_MAX: Final = 64
FLAG_RULE_NAMES_MAX: Final = 1_000
FLAG_BYTES_MAX: Final = 64 * KIB

HANDOFF_TIMEOUT_MS: Final = 5_000
"""By when whoever is asked to take work over answers;"""
HANDOFF_TIMEOUT_MIN_MS: Final = 10
HANDOFF_TIMEOUT_MAX_MS: Final = 3_600_000
"""and what may be asked for: people answer too."""
HANDOFF_CANDIDATES: Final = 3
"""Agents with a capability that are asked before a handoff escalates."""
HANDOFF_STEPS_MAX: Final = 16
HANDOFFS_MAX: Final = 100_000
"""Open handoffs of one partition; another one is refused."""
HANDOFF_BYTES: Final = 16 * KIB
"""Work and context: their decider holds them; more travels by reference."""
HANDOFFS_AT_ONCE: Final = 64
"""Offers that one instance thinks about; it declines more."""
HANDOFFS_REMEMBERED: Final = 1_024
"""Offers that it thought about, and does not think about again when it is told of them once more."""

DEADLOCK_WAITS_MAX: Final = 2_000
"""Waits that are looked at when a cycle is sought: beyond that none is claimed."""

# --- deciders -----------------------------------------------------------------------------

DECIDER_SNAPSHOT_S: Final = 10.0
DECIDER_SNAPSHOT_FACTS: Final = 20_000
"""How far apart a partition's snapshots are: what a new owner folds again at most, about 0.3 s."""

SNAPSHOT_PIECE_BYTES: Final = 512 * KIB
EDGE_LOOK_S: Final = 10.0
"""How often a partition's deciders look whether open work nears the end of the window."""

EDGE_AGE: Final = 0.75
"""Of `max_age`: open work that is older is stated again;"""
EDGE_FILL: Final = 0.5
"""and from this fill on,"""
EDGE_SPAN: Final = 0.25
"""what came from this oldest part of the log: the trimmer wants to let it go, and waits for open work."""

RESTATE_MAX: Final = 500
"""Statements of one partition and look; the next look goes on."""

DECIDER_INFLIGHT: Final = 4_096
"""Statements of one process's deciders that the broker has not answered yet; then they fold no further."""

DECIDER_BURST: Final = 2_048
"""Statements that one death or tick leads to at once; the rest comes with the next ticks."""

SNAPSHOT_BYTES_MAX: Final = 256 * MIB
"""One partition's state before compression: 400 bytes a task make half a million open tasks."""

RECALL_FACTS_MAX: Final = 2_000
"""Facts of one entity that are read to judge one that may have ended."""

QUEUE_WAITING_MAX: Final = 50_000
"""max_waiting of a queue: plain clients that wait at one at a time; of SDK workers `QUEUE_SEATS` do."""

QUEUE_SEATS: Final = 24
QUEUE_CROWD: Final = 2 * QUEUE_SEATS
"""Of a capability's idle workers the service wakes some where fewer than the first leave pulls waiting; who finds as
many as the second stands by.  The server goes through all of them four times a task, 2 µs for each with cold caches;
and so many tasks that come at once begin without anybody being woken, others up to a quarter of a second later."""

SEAT_AGAIN_S: Final = 4.0
SEAT_LOOK_S: Final = 30.0
STANDBY_LOOK_S: Final = 300.0
"""When an idle worker looks how many wait: after it has begun or was woken; later; while it stands by (5,000: 17 a
second).  Each a half more or less."""
STANDERS_S: Final = 2 * STANDBY_LOOK_S
"""For so long after a worker was told to stand by somebody may."""
STANDERS_PLACES: Final = 16
"""Capabilities whose queues are looked at in one look; three requests each."""
PUSH_TOGETHER_BYTES: Final = 64 * KIB
"""Of several pushes in one message; one that is larger goes alone."""
WAKES_A_LOOK: Final = 16_384
"""Messages that wake; 5,000 idle workers and a burst for all of them are 15,000."""
WAKE_PROBE_S: Final = 2.0
"""A worker that has not heard the service by then cannot be woken."""

DECIDER_TICK_S: Final = 0.25
"""How often time passes for deciders."""

assert EDGE_FILL < TRIM_END, "open work has left the oldest part when that is to go"
assert SUSPECT_AFTER < GONE_AFTER
assert DISCONNECT_GRACE_S < 0.1
assert 2 * CAPABILITY_DEPTH <= QUEUE_ACK_PENDING_MAX
assert 3 * BOARD_EVERY_S <= BOARD_STALE_S
assert 2 * GONE_AFTER * HEARTBEAT_S <= PRESENCE_SETTLE_S
assert 2 * PRESENCE_TICK_S < PRESENCE_STALL_S < GONE_AFTER * HEARTBEAT_S
assert GONE_AFTER * HEARTBEAT_S + DECIDER_TICK_S < 3.0, "a hung worker's claims move within 3 s"
assert TASK_INLINE_BYTES < EVENT_BYTES_MAX
assert LOCAL_OUTPUT_BYTES_MAX + 2 * TASK_INLINE_BYTES + 64 * KIB < EVENT_BYTES_MAX, "the task's, the steps', the last's"
assert LOCAL_CROWDED_S < LOCAL_S
assert TASK_PULL_HASTY_S < GONE_AFTER * HEARTBEAT_S, "a hung worker's pulls end before its claims move"
assert USED_DATABASE_S < RPC_TIMEOUT_S
assert USED_CIRCUIT_S < USED_WAIT_S / 4
assert USED_MARGIN_S > 2 * (USED_WHOLE_S + USED_WAIT_S + SUBMIT_WAIT_S)
assert USED_IDS_MAX * 2 * (TOKEN_BYTES_MAX + 8) < RPC_REQUEST_BYTES_MAX
assert QUEUE_ACK_WAIT_S >= 5 * TAKEOVER_S
assert QUEUE_CROWD < QUEUE_WAITING_MAX, "plain clients can wait, too"
assert STANDERS_S > 1.5 * STANDBY_LOOK_S
assert FLOW_BYTES_MAX < EVENT_BYTES_MAX
assert FLOW_NAMED_MAX * (TOKEN_BYTES_MAX + len('"",')) + STEP_INLINE_BYTES < EVENT_BYTES_MAX
assert FLOW_NAME_BYTES_MAX + len("undo_") + len(f"-{FLOW_ITEMS_MAX}") <= TOKEN_BYTES_MAX
