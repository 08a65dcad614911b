// Questions to the layouter about a copy of the cluster. Each is in the address of its screen.
import { ApiError, exchange, get, post, type Options } from './api';
import { checkedPatch, type Shown } from './changes';
import { parse, streamerPath, streamPath, url } from './json';
import type { LoadChange, PredictedLayout, Prediction, StreamEntity } from './model';
import { t } from './text';

export type QuestionKind = 'lose' | 'add' | 'change' | 'stream';
export type QuestionField = 'hosts' | 'count' | 'like' | 'host' | 'name' | 'patch';
/** A question as its address has it. */
export type Question = { kind: QuestionKind } & Partial<Record<QuestionField, string>>;

const FIELDS: Record<QuestionKind, QuestionField[]> = {
  lose: ['hosts'],
  add: ['count', 'like'],
  change: ['host', 'patch'],
  stream: ['name', 'patch'],
};
const OPTIONAL: QuestionField[] = ['like'];
export const KINDS = Object.keys(FIELDS) as QuestionKind[];
/** What a question begins with where its address has nothing. */
const EXAMPLES: Record<QuestionKind, Partial<Question>> = {
  lose: {},
  add: { count: '100' },
  change: { patch: '{"channel_limit": 100}' },
  stream: { patch: '{"labels": {"required.site": "fra"}}' },
};
/** What decides where a stream may run. Nothing else gets into an address: inputs have secrets. */
const STREAM_MEMBERS = ['claims', 'disabled', 'dvr', 'labels', 'transcoder', 'vision'];
/** What new streams have in common with the one that they are like. */
const DEMANDS = ['claims', 'dvr', 'labels', 'namespace', 'transcoder', 'vision'];
/** What decides which streams a streamer may take. */
const STREAMER_MEMBERS = ['channel_limit', 'labels', 'namespace', 'role', 'total_bandwidth'];
/** Changes that are requested: the largest number that the API returns at once. */
export const LOADS_READ = 10_000;
/** Rows that are drawn; the others are counted. */
export const ROWS_SHOWN = 50;

/** The question of an address; fields of other kinds are left out. */
export function questionOf(query: Record<string, string>): Question {
  const kind = KINDS.find((name) => name === query.kind) ?? 'lose';
  const given = FIELDS[kind].filter((field) => query[field]);
  return { kind, ...Object.fromEntries(given.map((field) => [field, query[field]])) };
}

/** The question to edit: what is missing is filled with an example. */
export function draftOf(question: Question): Question {
  const draft = { ...EXAMPLES[question.kind], ...question };
  if (draft.hosts) draft.hosts = hostsOf(draft.hosts).join('\n');
  return draft;
}

export const isComplete = (question: Question): boolean =>
  FIELDS[question.kind].every((field) => OPTIONAL.includes(field) || question[field]);

export const hostsOf = (text = ''): string[] => [
  ...new Set(text.split(/[\s,]+/).filter((host) => host)),
];

function checkMembers(text: string, known: string[]): void {
  const patch = parse(checkedPatch(text)) as Record<string, unknown>;
  const other = Object.keys(patch).find((member) => !known.includes(member));
  if (other !== undefined) {
    throw new Error(t('whatif.member', { name: other, names: known.join(', ') }));
  }
}

/** The question in its shortest form. Refuses what is incomplete or cannot be in an address. */
export function checkedQuestion(draft: Question): Question {
  const trimmed = FIELDS[draft.kind].map((field) => [field, draft[field]?.trim() ?? '']);
  const question = questionOf({ kind: draft.kind, ...Object.fromEntries(trimmed) });
  if (question.hosts) question.hosts = hostsOf(question.hosts).join(',');
  if (!isComplete(question)) throw new Error(t('whatif.incomplete'));
  if (question.kind === 'add' && !/^[1-9]\d{0,6}$/.test(question.count ?? '')) {
    throw new Error(t('whatif.not_count'));
  }
  if (question.kind === 'stream') checkMembers(question.patch ?? '', STREAM_MEMBERS);
  if (question.kind === 'change') checkMembers(question.patch ?? '', STREAMER_MEMBERS);
  return question;
}

/** What the layouter would do. */
export interface WhatIfAnswer {
  prediction: Prediction<unknown>;
  /** Changed loads, the largest change first. */
  loads: LoadChange[];
  /** Streams that move, where the answer is by stream. */
  streams: PredictedLayout[];
  /** The number of changes, of which an answer may have a part. */
  total: number;
  isByStream: boolean;
  /** What can be applied: a patch of an entity that is stored. */
  change: PreviewedChange | null;
}

export interface PreviewedChange {
  shown: Shown;
  patch: string;
}

/** The largest change first; equal ones by hostname. */
export const largestFirst = (loads: LoadChange[]): LoadChange[] =>
  [...loads].sort(
    (a, b) => Math.abs(b.delta) - Math.abs(a.delta) || (a.hostname < b.hostname ? -1 : 1),
  );

function byStreamer(
  prediction: Prediction<LoadChange>,
  change: PreviewedChange | null,
): WhatIfAnswer {
  const loads = largestFirst(prediction.changes);
  const total = prediction.estimated_count ?? loads.length;
  return { prediction, loads, streams: [], total, isByStream: false, change };
}

async function cluster(events: unknown[], options: Options): Promise<WhatIfAnswer> {
  const body = { events };
  const prediction = await post<Prediction<LoadChange>>('/cluster/preview', { ...options, body });
  return byStreamer(prediction, null);
}

/** The members of a stream that decide where those like it may run. */
async function demandsOf(name: string, options: Options): Promise<Record<string, unknown>> {
  const stream = await get<StreamEntity>(streamPath(name), options);
  const given = Object.entries(stream.config_on_disk ?? stream);
  return Object.fromEntries(given.filter(([member]) => DEMANDS.includes(member)));
}

/** What is stored and its tag, then what a patch of it would cause. */
export async function previewChange<Change>(
  path: string,
  { limit, text, signal }: { limit: number; text: string; signal?: AbortSignal },
): Promise<{ entity: unknown; etag: string | null; prediction: Prediction<Change> }> {
  const { data: entity, etag } = await exchange<unknown>('GET', path, { signal });
  const preview = url(`${path}/preview_layout_change`, { limit });
  return { entity, etag, prediction: await post<Prediction<Change>>(preview, { text, signal }) };
}

async function ofStreamer(host: string, text: string, options: Options): Promise<WhatIfAnswer> {
  const path = streamerPath(host);
  try {
    const asked = { ...options, limit: LOADS_READ, text };
    const { etag, prediction } = await previewChange<LoadChange>(path, asked);
    return byStreamer(prediction, { shown: { path, name: host, etag }, patch: text });
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
    // It does not exist: what if it is added.
    const patch = parse(text) as Record<string, unknown>;
    return cluster([{ ...patch, event: 'streamer_saved', hostname: host }], options);
  }
}

async function ofStream(name: string, text: string, options: Options): Promise<WhatIfAnswer> {
  const path = streamPath(name);
  const asked = { ...options, limit: ROWS_SHOWN, text };
  const { etag, prediction } = await previewChange<PredictedLayout>(path, asked);
  const streams = prediction.changes;
  const total = prediction.estimated_count ?? streams.length;
  const change = { shown: { path, name, etag }, patch: text };
  return { prediction, loads: [], streams, total, isByStream: true, change };
}

/** The answer to a question that was checked. Nothing is changed by it. */
export async function ask(question: Question, signal: AbortSignal): Promise<WhatIfAnswer> {
  const { kind, hosts, count, like, host = '', name = '', patch = '' } = question;
  const options = { signal };
  if (kind === 'change') return ofStreamer(host, patch, options);
  if (kind === 'stream') return ofStream(name, patch, options);
  if (kind === 'lose') {
    const lost = hostsOf(hosts).map((hostname) => ({ event: 'streamer_lost', hostname }));
    return cluster(lost, options);
  }
  const stream = like ? await demandsOf(like, options) : {};
  return cluster([{ event: 'streams_added', count: Number(count), stream }], options);
}
