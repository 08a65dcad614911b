// Numbers and times as people read them, by Intl: another language is another locale.
import { keep, kept } from './store';
import { locale, t } from './text';

type Maybe = number | null | undefined;

const whole = new Intl.NumberFormat(locale);
const one = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat(locale, { maximumFractionDigits: 2 });
const difference = new Intl.NumberFormat(locale, { signDisplay: 'exceptZero' });
const relative = new Intl.RelativeTimeFormat(locale, { style: 'short', numeric: 'always' });

const ABSENT = '–';
const isAbsent = (n: Maybe): n is null | undefined => n === null || n === undefined;

export const count = (n: Maybe) => (isAbsent(n) ? ABSENT : whole.format(n));
/** A difference, with its sign. */
export const signed = (n: number) => difference.format(n);
export const percent = (n: Maybe) => (isAbsent(n) ? ABSENT : t('unit.percent', { n: Math.round(n) }));

/** A bit rate from kbit/s, the unit of the API. */
export function rate(kbit: Maybe): string {
  if (isAbsent(kbit)) return ABSENT;
  if (kbit >= 1e9) return t('unit.tbit', { n: two.format(kbit / 1e9) });
  if (kbit >= 1e8) return t('unit.gbit', { n: Math.round(kbit / 1e6) });
  if (kbit >= 1e6) return t('unit.gbit', { n: one.format(kbit / 1e6) });
  if (kbit >= 1e3) return t('unit.mbit', { n: one.format(kbit / 1e3) });
  return t('unit.kbit', { n: kbit });
}

/** A count in little room. */
export function short(n: Maybe): string {
  if (isAbsent(n)) return ABSENT;
  if (n >= 1e6) return t('unit.millions', { n: one.format(n / 1e6) });
  if (n >= 1e4) return t('unit.thousands', { n: one.format(n / 1e3) });
  return whole.format(n);
}

/** A duration in its two largest units. */
export function duration(seconds: Maybe): string {
  if (isAbsent(seconds)) return ABSENT;
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return t('duration.days', { days, hours });
  if (hours) return t('duration.hours', { hours, minutes });
  const rest = { minutes, seconds: Math.floor(seconds) % 60 };
  return t(minutes ? 'duration.minutes' : 'duration.seconds', rest);
}

/** A duration from milliseconds; below a second in them. */
export const milliseconds = (ms: number) =>
  ms < 1000 || ms % 1000 ? t('unit.ms', { n: ms }) : duration(ms / 1000);

/** A number of bytes, in the unit that fits. */
export function bytes(n: number): string {
  if (n >= 1e9) return t('unit.gb', { n: one.format(n / 1e9) });
  if (n >= 1e6) return t('unit.mb', { n: one.format(n / 1e6) });
  if (n >= 1e3) return t('unit.kb', { n: one.format(n / 1e3) });
  return t('unit.bytes', { n });
}

export function ago(ms: number, now = Date.now()): string {
  const seconds = Math.round((ms - now) / 1000);
  if (seconds > -5) return t('time.now');
  if (seconds > -90) return relative.format(seconds, 'second');
  if (seconds > -5400) return relative.format(Math.round(seconds / 60), 'minute');
  if (seconds > -129600) return relative.format(Math.round(seconds / 3600), 'hour');
  return relative.format(Math.round(seconds / 86400), 'day');
}

/** Whether times are shown in UTC instead of local time. */
export const zone = { utc: kept('weir.utc') === '1' };

export function chooseUtc(utc: boolean): void {
  keep('weir.utc', utc ? '1' : null);
  zone.utc = utc;
}

const stamped = new Map<boolean, Intl.DateTimeFormat>();
function stamp(ms: number, utc: boolean): string {
  const options = { dateStyle: 'short', timeStyle: 'medium' } as const;
  const format =
    stamped.get(utc) ??
    new Intl.DateTimeFormat('sv-SE', { ...options, timeZone: utc ? 'UTC' : undefined });
  stamped.set(utc, format);
  const text = format.format(ms);
  if (utc) return `${text}Z`;
  const parts = new Intl.DateTimeFormat(locale, { timeZoneName: 'short' }).formatToParts(ms);
  return `${text} ${parts.find((part) => part.type === 'timeZoneName')?.value ?? ''}`;
}

export const time = (ms: Maybe) => (ms ? stamp(ms, zone.utc) : ABSENT);
/** Both zones and the ISO form, for a tooltip. */
export const times = (ms: Maybe) =>
  ms ? `${stamp(ms, zone.utc)}\n${stamp(ms, !zone.utc)}\n${new Date(ms).toISOString()}` : '';
export const clock = (ms: Maybe) => (ms ? time(ms).slice(11, 19) : ABSENT);
