// JSON without loss: integers that do not fit into a number of JavaScript stay text.

/** A JSON value of unknown form. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

type SourceReviver = (key: string, value: unknown, context?: { source: string }) => unknown;

/** Keeps the text of integers that a number cannot hold. */
export const exact: SourceReviver = (_key, value, context) => {
  const isLost =
    typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value);
  return isLost && context ? context.source : value;
};

/** Parses a body. Identifiers of 64 bits beyond 2^53 become text, every digit of them. */
export function parse(text: string): unknown {
  return text ? JSON.parse(text, exact as (key: string, value: unknown) => unknown) : null;
}

/** Whether parsed integers keep their text; otherwise the server has to send text. */
export const hasSourceText = String(parse('[9007199254740993]')) === '9007199254740993';

/** `/a?b=c` from a path and parameters; empty ones are left out. */
export function url(path: string, query: Record<string, unknown> = {}): string {
  const text = Object.entries(query)
    .filter(([, value]) => value !== undefined && value !== null && value !== '')
    .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(String(value))}`)
    .join('&');
  return text ? `${path}?${text}` : path;
}

export const streamPath = (name: string) => `/streams/${encodeURIComponent(name)}`;
export const streamerPath = (hostname: string) => `/streamers/${encodeURIComponent(hostname)}`;
