// What the API returns, as far as the screens read it.

export type Health = 'operational' | 'degradated' | 'partial_outage' | 'outage' | 'disabled';
export type Counts = Record<Health | 'total', number>;
export const HEALTHS: Health[] = [
  'operational',
  'degradated',
  'partial_outage',
  'outage',
  'disabled',
];

/** The session of this browser, from `/session`. */
export interface Session {
  user: string;
  may: { read: boolean; write: boolean; execute: boolean; admin: boolean };
  scopes: string[];
  expires_at: number | null;
  server: { version: string; started_at: number };
  features: string[];
}

export type AttentionKind =
  | 'store'
  | 'unplaced'
  | 'streamer_down'
  | 'streamer_probation'
  | 'streamer_config'
  | 'streamer_streams'
  | 'streamer_cpu'
  | 'streamer_memory'
  | 'streamer_disk'
  | 'streamer_bandwidth'
  | 'loss'
  | 'stream_flapping'
  | 'layouter_off'
  | 'layouter_paused'
  | 'brake';

/** Something that an operator should know; severity 3 is the worst. */
export interface AttentionLine {
  severity: number;
  kind: AttentionKind;
  subject?: string;
  since?: number;
  count: number;
}

/** What an overview shows, from `/cluster/summary`. */
export interface ClusterSummary {
  at: number;
  streams: Counts & { unplaced: number };
  streamers: Counts & { states: Partial<Record<StateCode, number>> };
  traffic: { input_kbit: number; output_kbit: number; clients: number };
  /** Null for a credential that may not read it. */
  layouter: { enabled: boolean; paused: LayouterPause['what'] | null } | null;
  /** Null while the layouter is off. */
  capacity: CapacitySummary | null;
  /** The worst first. */
  attention: AttentionLine[];
  attention_kinds: Partial<Record<AttentionKind, number>>;
}

/** Numbers of the past: a row for each step, first its time. Null: not known. */
export interface HistoryTable {
  fields: string[];
  points: (number | null)[][];
}

/** Numbers of streams by the values of fields. */
export interface Facets {
  facets: { field: string; values: { value: string; count: number }[] }[];
}

export type Bottleneck = 'channels' | 'bandwidth' | 'storage' | 'nodes';

export interface CapacityClass {
  labels: Record<string, string>;
  namespace?: string;
  transcoder?: boolean;
  nodes: number;
  streams: number;
  streams_more: number;
  bottleneck?: Bottleneck;
}

export interface CapacitySummary {
  streams_more: number;
  bottleneck: Bottleneck | null;
  survives_any_loss: boolean;
  /** The worst first. */
  classes: CapacityClass[];
}

export type StateName = 'up' | 'held' | 'unknown' | 'offline';

/** The state and the maintenance of a streamer in one word. */
export type StateCode =
  | 'up'
  | 'probation'
  | 'down'
  | 'unsure'
  | 'draining'
  | 'drained'
  | 'cordoned';

export interface StreamerReport {
  cpu_usage?: number;
  memory_usage?: number;
  input_kbit?: number;
  output_kbit?: number;
  total_clients?: number;
  uptime?: number;
  server_version?: string;
  partitions?: { usage?: number }[];
}

/** A pause of the layouter, kept over restarts. */
export interface LayouterPause {
  by: string;
  reason: string;
  since: number;
  /** Absent: until it is ended. */
  until?: number | null;
  what: 'improving' | 'all';
}

/** What the layouter does now. */
export interface LayouterStatus {
  enabled: boolean;
  paused: LayouterPause | null;
  waiting: {
    urgent: number;
    improving: number;
    unplaced: number;
    by_reason: Record<string, number>;
  };
  /** None while it is off. */
  budgets?: Record<string, { left: number; limit: number }>;
  brake: { on: boolean; since?: number; until?: number; why?: string };
  /** Decisions of the last hour. */
  moves_1h: { by_reason: Record<string, number> };
}

/** A cordoned streamer keeps its streams and takes no new ones; those of a drained one leave. */
export interface Maintenance {
  mode: 'cordon' | 'drain';
  reason: string;
  since: number;
  /** Of a drain. What is left is unknown while the layouter is off. */
  pace?: number;
  deadline?: number;
  return?: boolean;
  ingests?: number;
  backups?: number;
  inferences?: number;
  no_place?: number;
  drained_at?: number;
}

export interface StreamerEntity {
  hostname: string;
  role?: string;
  labels?: Record<string, string>;
  channel_limit?: number;
  total_bandwidth?: number;
  cluster_key?: string;
  health?: Health;
  load?: { ingests?: number };
  /** By health; absent in a large cluster until they were counted. */
  streams?: Partial<Counts>;
  state?: {
    name: StateName;
    cause?: string;
    since?: number;
    hold_until?: number;
    maintenance?: Maintenance;
  };
  stats?: StreamerReport;
}

export type RunStatus = 'running' | 'waiting' | 'error';

export interface Layout {
  ingest?: string;
  inference?: string;
  dvr_backups?: string[];
  change_reason?: string;
  created_at?: number;
  failover_from?: string;
  originator?: string;
  /** It is kept on its ingest node. */
  pinned?: boolean;
}

export interface StreamEntity {
  name: string;
  title?: string;
  disabled?: boolean;
  health?: Health;
  labels?: Record<string, string>;
  layout?: Layout;
  stats?: {
    status?: RunStatus;
    bitrate?: number;
    online_clients?: number;
    last_dts_at?: number;
  };
  updated_at?: number;
  config_on_disk?: Record<string, unknown>;
}

export interface ExplainNode {
  hostname: string;
  role: string;
  current: boolean;
  node_decision: boolean;
  reasons: string[];
  score?: number;
  load_percent: number;
}

/** Streamers with the same reasons; none: they may take the stream. */
export interface ExplainGroup {
  /** Some of them. */
  hostnames: string[];
  /** How many there are. */
  nodes: number;
  reasons: string[];
  role: string;
}

/** An explanation with `group=reasons`: as large in a cluster of any size. */
export interface Explanation {
  summary: string;
  /** A node that suits the stream better, and what keeps it from moving there. */
  better?: { hostname: string; why_not_now: string };
  /** The current ones and the best. */
  nodes: ExplainNode[];
  /** All of each role, the largest group first. */
  groups: ExplainGroup[];
}

export interface EventRecord {
  /** Text beyond 2^53. */
  event_id: number | string;
  event: string;
  utc_ms: number;
  entity_type?: string;
  entity_id?: string;
  entities?: string[];
  entities_count?: number;
  operation_id?: string;
  user?: string;
  ip?: string;
  user_agent?: string;
  status?: number;
  state?: string;
  why?: string;
  changed?: string[];
  relayouts_count?: number;
  relayouts_why?: Record<string, number>;
  relayouts?: { name: string; ingest?: string; why?: string }[];
}

/** A page of a list. */
export type Page<Name extends string, Row> = Record<Name, Row[]> & {
  estimated_count: number;
  next: string | null;
};

export interface PredictedLayout {
  name: string;
  ingest?: string;
  change_reason?: string;
}

/** The number of streams of one role on a streamer, now and then. */
export interface LoadChange {
  hostname: string;
  role: string;
  before: number;
  after: number;
  delta: number;
  /** The limit of the streamer; 0: it has none. */
  capacity?: number;
}

/** What would be changed, by stream or by streamer. */
export interface Prediction<Change> {
  estimated_count?: number;
  changes: Change[];
  /** Changes that this session may not see. */
  hidden?: number;
  moves_caused: number;
  /** Moves that are due anyway. */
  moves_pending: number;
  unplaced: number;
  unplaced_before: number;
  unplaced_copies: number;
  /** Without a name: one of those that would be added. */
  unplaced_sample: { name?: string; reasons: string[] }[];
}
