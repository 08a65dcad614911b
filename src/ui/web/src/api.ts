// Requests to the API: one function, one kind of error.
//
// The credential is never here. Logging in sets a cookie that scripts cannot read; with the header
// `X-Weir-UI`, which no page of another origin can send, the server accepts it.
import { hasSourceText, parse, url } from './json';
import type { EventRecord, Page, Session } from './model';

/** The whole address of the API, as commands have it. */
export const apiAddress = () => new URL('../../central/api/v3', document.baseURI).href;
const base = () => new URL(apiAddress()).pathname;

interface ErrorItem {
  code?: string;
  title?: string;
  source?: { pointer?: string; parameter?: string };
  meta?: { name?: string };
}

/** A refused or failed request. `code` is stable, `message` is the server's sentence. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  /** The JSON pointer or the parameter that the error is about. */
  readonly pointer: string;
  /** What each of the errors is about. */
  readonly pointers: string[];
  /** The entities that a refused batch is about. */
  readonly names: string[];

  constructor(status: number, errors: ErrorItem[] | undefined) {
    const first = errors?.[0] ?? {};
    super(first.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = first.code ?? 'unknown';
    this.pointers = errors?.map(({ source }) => source?.pointer ?? source?.parameter ?? '') ?? [];
    this.pointer = this.pointers[0] ?? '';
    this.names = errors?.flatMap(({ meta }) => meta?.name ?? []) ?? [];
  }
}

/** Whether a question was refused because the layouter is off. */
export const isLayouterOff = (error: unknown): boolean =>
  error instanceof ApiError && error.code === 'layouter_disabled';

let onUnauthorized: () => void = () => {};

/** Sets the listener of every 401, which shows the login page. */
export function whenUnauthorized(listener: () => void): void {
  onUnauthorized = listener;
}

export interface LoggedRequest {
  method: string;
  path: string;
  status: number;
  ms: number;
  bytes: number;
}

/** The last requests, newest first: for the dialog about this browser. */
export const requestLog: LoggedRequest[] = [];
const LOGGED_MAX = 200;

export interface Options {
  body?: unknown;
  /** A body that is JSON already, sent as it is: a parsed one loses digits of integers. */
  text?: string;
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

export interface Answer<T> {
  data: T;
  /** Names the stored version of an entity. */
  etag: string | null;
}

function errorsOf(text: string): ErrorItem[] | undefined {
  try {
    return (parse(text) as { errors?: ErrorItem[] } | null)?.errors;
  } catch {
    // A proxy answered, not the server.
    return undefined;
  }
}

/** Sends a request. */
function request(
  method: string,
  path: string,
  { body, text: given, signal, headers }: Options,
): Promise<Response> {
  const sent = given ?? (body === undefined ? undefined : JSON.stringify(body));
  return fetch(base() + path, {
    method,
    signal,
    credentials: 'same-origin',
    cache: 'no-store',
    headers: {
      'X-Weir-UI': '1',
      Prefer: 'handling=strict',
      ...(hasSourceText ? {} : { Accept: 'application/json; ids=string' }),
      ...(sent === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...headers,
    },
    body: sent,
  });
}

function log(method: string, path: string, status: number, began: number, bytes: number): void {
  requestLog.unshift({ method, path, status, ms: performance.now() - began, bytes });
  requestLog.length = Math.min(requestLog.length, LOGGED_MAX);
}

export async function exchange<T>(
  method: string,
  path: string,
  options: Options = {},
): Promise<Answer<T>> {
  const began = performance.now();
  const response = await request(method, path, options);
  const text = await response.text();
  log(method, path, response.status, began, text.length);
  if (response.ok) return { data: parse(text) as T, etag: response.headers.get('ETag') };
  if (response.status === 401) onUnauthorized();
  throw new ApiError(response.status, errorsOf(text));
}

/** The body of an answer, as it arrives. A connection that ends too early is an error of the body. */
export async function bodyOf(path: string): Promise<ReadableStream<Uint8Array>> {
  const began = performance.now();
  const response = await request('GET', path, {});
  const isBody = response.ok && response.body !== null;
  const text = isBody ? '' : await response.text();
  log('GET', path, response.status, began, text.length);
  if (isBody && response.body) return response.body;
  if (response.status === 401) onUnauthorized();
  throw new ApiError(response.status, errorsOf(text));
}

/** A `POST` whose answer is JSON in lines, each passed on as it arrives. Returns the last one. */
export async function postLines<T>(
  path: string,
  options: Options,
  onLine: (line: T) => void,
): Promise<T | null> {
  const began = performance.now();
  const response = await request('POST', path, options);
  if (!response.ok || !response.body) {
    const text = await response.text();
    log('POST', path, response.status, began, text.length);
    if (response.status === 401) onUnauthorized();
    throw new ApiError(response.status, errorsOf(text));
  }
  let [bytes, rest, last]: [number, string, T | null] = [0, '', null];
  const take = (line: string) => {
    if (!line) return;
    last = parse(line) as T;
    onLine(last);
  };
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes += value.length;
    const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    lines.forEach(take);
  }
  take(rest);
  log('POST', path, response.status, began, bytes);
  return last;
}

async function data<T>(method: string, path: string, options?: Options): Promise<T> {
  return (await exchange<T>(method, path, options)).data;
}

export const get = <T>(path: string, options?: Options) => data<T>('GET', path, options);
export const put = <T>(path: string, options: Options) => data<T>('PUT', path, options);
export const post = <T>(path: string, options: Options) => data<T>('POST', path, options);
export const remove = (path: string, options: Options) => data<null>('DELETE', path, options);

// The calls of screens, each in one place, so that a call of the API that returns more replaces it.

export const session = {
  read: () => get<Session>('/session'),
  open: (credentials: Record<string, string>) => post<Session>('/session', { body: credentials }),
  close: () => data<null>('DELETE', '/session'),
};

export const EVENT_FIELDS =
  'event_id,event,utc_ms,entity_type,entity_id,entities_count,operation_id,user,ip,user_agent,' +
  'status,state,why,relayouts_count,relayouts_why';

/** The newest events that match. */
export const newestEvents = (limit: number, filter: Record<string, unknown> = {}) =>
  url('/events', { ...filter, sort: '-event_id', limit, select: EVENT_FIELDS });

/** Events after one, waiting for them for so many seconds; `undefined`: not at all. */
export const eventsAfter = (
  last: number | string,
  poll_timeout: number | undefined,
  signal: AbortSignal,
) =>
  get<Page<'events', EventRecord>>(
    url('/events', { event_id_gt: last, poll_timeout, limit: 200, select: EVENT_FIELDS }),
    { signal },
  );

/** What the overview shows, read by these paths. */
export const OVERVIEW = {
  summary: '/cluster/summary',
  history: '/cluster/history',
  unplaced: url('/streams', {
    placed: 'false',
    disabled_ne: 'true',
    limit: 1,
    select: 'name',
  }),
  events: newestEvents(40),
};
