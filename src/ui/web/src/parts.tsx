// Small parts that every screen uses. Each status has a shape and a word beside its colour.
import type { ComponentChildren, JSX } from 'preact';
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { ApiError } from './api';
import * as f from './format';
import type { Health, RunStatus, StateName } from './model';
import { href } from './router';
import { t } from './text';

/** A pause in typing that is the end of it. */
const TYPING_MS = 200;

type Tone = 'ok' | 'warn' | 'bad' | 'off' | 'wait' | 'pause';
export type MarkOf = Health | RunStatus | StateName | 'cordoned' | 'draining' | 'drained' | 'none' | 'unplaced';

const SHAPES: Record<Tone, () => JSX.Element> = {
  ok: () => <circle cx="6" cy="6" r="4.5" />,
  warn: () => <path d="M6 1.2 11.3 10.5H.7Z" />,
  bad: () => <path d="M1.6 1.6h8.8v8.8H1.6Z" />,
  off: () => <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.8" />,
  wait: () => (
    <>
      <path d="M6 1.5a4.5 4.5 0 0 1 0 9Z" />
      <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.4" />
    </>
  ),
  pause: () => <path d="M2 1.5h3v9H2ZM7 1.5h3v9H7Z" />,
};
const TONES: Record<MarkOf, Tone> = {
  operational: 'ok',
  running: 'ok',
  up: 'ok',
  degradated: 'warn',
  partial_outage: 'warn',
  held: 'wait',
  waiting: 'wait',
  unknown: 'off',
  outage: 'bad',
  error: 'bad',
  offline: 'bad',
  cordoned: 'pause',
  draining: 'wait',
  drained: 'pause',
  disabled: 'off',
  none: 'off',
  unplaced: 'bad',
};

export function Mark({ of, label }: { of: MarkOf; label?: string }) {
  const tone = TONES[of] ?? 'off';
  const role = label ? { role: 'img' as const, 'aria-label': label } : { 'aria-hidden': true };
  return (
    <svg
      class={`mark ${tone}`}
      viewBox="0 0 12 12"
      width="12"
      height="12"
      fill="currentColor"
      {...role}
    >
      {SHAPES[tone]()}
    </svg>
  );
}

/** The share of a limit. Its text stands beside it. */
export function Bar(props: { part: number; of: number; warn?: number; bad?: number }) {
  const { part, of, warn = 0.8, bad = 0.95 } = props;
  const share = of ? Math.min(1, part / of) : 0;
  const kind = share >= bad ? 'bad' : share >= warn ? 'warn' : 'ok';
  return (
    <svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
      <rect class="bar-back" width="100" height="6" rx="1" />
      <rect class={`bar-fill ${kind}`} width={share * 100} height="6" />
    </svg>
  );
}

/** Several counts of one whole, side by side, the worst last. */
export function Stack({ parts, total }: { parts: { of: MarkOf; n: number }[]; total: number }) {
  const sum = total || 1;
  let x = 0;
  return (
    <svg class="stack" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">
      {parts
        .filter((part) => part.n > 0)
        .map((part) => {
          const width = Math.max((part.n / sum) * 1000, 4);
          const at = x;
          x += width;
          const shown = Math.max(0, width - 2);
          return <rect class={`bar-fill ${TONES[part.of]}`} x={at} width={shown} height="8" />;
        })}
    </svg>
  );
}

export function Time({ at, relative = true }: { at?: number | null; relative?: boolean }) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!relative) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), 15_000);
    return () => clearInterval(timer);
  }, [relative]);
  if (!at) return <>–</>;
  return (
    <time datetime={new Date(at).toISOString()} title={f.times(at)}>
      {relative ? f.ago(at) : f.time(at)}
    </time>
  );
}

interface PanelProps {
  title: string;
  aside?: ComponentChildren;
  kind?: string;
  children: ComponentChildren;
}

export function Panel({ title, aside, kind = '', children }: PanelProps) {
  return (
    <section class={`panel ${kind}`}>
      <header>
        <h2>{title}</h2>
        {aside && <div class="aside">{aside}</div>}
      </header>
      {children}
    </section>
  );
}

/** What the server refused: its sentence, code and pointer. */
export function Failure({ error, again }: { error: Error | null; again?: () => void }) {
  if (!error) return null;
  const api = error instanceof ApiError ? error : null;
  return (
    <div class="failure" role="alert">
      <Mark of="error" />
      <div>
        <strong>{t('error.title')}</strong>{' '}
        <span lang={api ? 'en' : undefined}>{error.message}</span>
        {api?.pointer && (
          <>
            {' '}
            <code translate={false}>{api.pointer}</code>
          </>
        )}{' '}
        {api && (
          <span class="muted" translate={false}>
            {api.status} {api.code}
          </span>
        )}
      </div>
      {again && <button onClick={again}>{t('error.again')}</button>}
    </div>
  );
}

interface TileProps {
  title: string;
  value: string;
  note?: ComponentChildren;
  to?: string;
  /** Links to parts of what the number counts. */
  links?: ComponentChildren;
  children?: ComponentChildren;
}

/** What the server reports about a change that it made. */
export function Warnings({ of }: { of: string[] }) {
  return (
    <>
      {of.map((warning) => (
        <p class="warning" role="alert">
          <Mark of="degradated" /> <span lang="en">{warning}</span>
        </p>
      ))}
    </>
  );
}

/** A number with a name, which may lead to the list behind it. */
export function Tile({ title, value, note, to, links, children }: TileProps) {
  if (links) {
    // A link holds no other: its area is the tile, below the other links.
    return (
      <div class="tile linked">
        <a class="whole" href={to}>
          <h2>{title}</h2>
          <p class="big">{value}</p>
        </a>
        {children}
        <div class="note">{links}</div>
      </div>
    );
  }
  const body = (
    <>
      <h2>{title}</h2>
      <p class="big">{value}</p>
      {children}
      {note && <div class="note">{note}</div>}
    </>
  );
  return to ? (
    <a class="tile" href={to}>
      {body}
    </a>
  ) : (
    <div class="tile">{body}</div>
  );
}

const labelKind = (key: string) =>
  key.startsWith('required.') ? 'hard' : key.startsWith('preferred.') ? 'soft' : '';

export function Labels({ labels, most = 3 }: { labels?: Record<string, string>; most?: number }) {
  const all = Object.entries(labels ?? {});
  const rest = all.slice(most).map(([key, value]) => `${key}=${value}`);
  return (
    <span class="labels" translate={false}>
      {all.slice(0, most).map(([key, value]) => (
        <span class={`label ${labelKind(key)}`} title={`${key}=${value}`}>
          <i>{key}</i>
          {String(value)}
        </span>
      ))}
      {rest.length > 0 && (
        <span class="label more" title={rest.join('\n')}>
          +{rest.length}
        </span>
      )}
    </span>
  );
}

/** What somebody typed or a machine reports: it has no other language. */
export function Given({ text }: { text?: string | null }) {
  return (
    <span title={text ?? ''} translate={false}>
      {text}
    </span>
  );
}

/** The name of a stream: folders quiet, the last part loud. */
export function Name({ name, link = true }: { name: string; link?: boolean }) {
  const cut = name.lastIndexOf('/') + 1;
  const body = (
    <>
      <span class="folder">{name.slice(0, cut)}</span>
      <span class="leaf">{name.slice(cut)}</span>
    </>
  );
  if (!link) {
    return (
      <span class="name" title={name} translate={false}>
        {body}
      </span>
    );
  }
  return (
    <a class="name" href={href('streams', [name])} title={name} translate={false}>
      {body}
    </a>
  );
}

/** The part of a hostname before its domain, which all streamers usually share. */
export const shortHost = (hostname: string) => hostname.split('.')[0] ?? hostname;

export function StreamerLink({ hostname }: { hostname?: string | null }) {
  if (!hostname) return <span class="muted">–</span>;
  const leaf = shortHost(hostname);
  return (
    <a class="name" href={href('streamers', [hostname])} title={hostname} translate={false}>
      <span class="leaf">{leaf}</span>
      <span class="folder">{hostname.slice(leaf.length)}</span>
    </a>
  );
}

/** JSON as text with its keys marked, built of elements: nothing in it is markup. */
export function JsonText({ value, label }: { value: unknown; label: string }) {
  const text = JSON.stringify(value, null, 2) ?? '';
  const parts = text.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?)/);
  const kind = (part: string) => (part.trimEnd().endsWith(':') ? 'key' : 'str');
  return (
    <pre class="json" tabindex={0} role="region" aria-label={label} translate={false}>
      {parts.map((part) => (part.startsWith('"') ? <span class={kind(part)}>{part}</span> : part))}
    </pre>
  );
}

export function Copy({ text }: { text: string }) {
  const [done, set] = useState(false);
  // Browsers have it for pages that are encrypted or local.
  if (!navigator.clipboard) return null;
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    set(true);
    setTimeout(() => set(false), 1200);
  };
  return (
    <button type="button" class="quiet" onClick={copy}>
      {done ? t('copied') : t('copy')}
    </button>
  );
}

interface DialogProps {
  title: string;
  /** The title is the name of an entity. */
  isName?: boolean;
  onClose: () => void;
  actions?: ComponentChildren;
  children: ComponentChildren;
}

export function Dialog({ title, isName = false, onClose, actions, children }: DialogProps) {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => box.current?.showModal(), []);
  const outside = (event: MouseEvent) => {
    if (event.target === box.current) box.current?.close();
  };
  // Enter in a field is the action, not the first button, which closes.
  const enter = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || !(event.target instanceof HTMLInputElement)) return;
    event.preventDefault();
    box.current?.querySelector<HTMLButtonElement>('footer .primary, footer .danger')?.click();
  };
  return (
    <dialog ref={box} onClose={onClose} onClick={outside} aria-label={title}>
      <form method="dialog" onKeyDown={enter}>
        <header>
          <h2 translate={!isName}>{title}</h2>
          <button class="quiet" aria-label={t('close')}>
            ✕
          </button>
        </header>
        <div class="dialog-body">{children}</div>
        {actions && <footer>{actions}</footer>}
      </form>
    </dialog>
  );
}

interface CheckBoxProps {
  label: string;
  name: string;
  isChecked: boolean;
  onCheck: (isChecked: boolean) => void;
}

export function CheckBox({ label, name, isChecked, onCheck }: CheckBoxProps) {
  return (
    <label>
      <input
        type="checkbox"
        name={name}
        checked={isChecked}
        onChange={(event) => onCheck(event.currentTarget.checked)}
      />{' '}
      {label}
    </label>
  );
}

interface TextInputProps {
  label: string;
  name: string;
  value: string;
  onType: (text: string) => void;
}

/** The first field of a dialog. */
export function TextInput({ label, name, value, onType }: TextInputProps) {
  return (
    <label class="stacked">
      {label}
      <input
        name={name}
        autocomplete="off"
        autofocus
        value={value}
        onInput={(event) => onType(event.currentTarget.value)}
      />
    </label>
  );
}

interface TabsProps<Value> {
  of: [Value, string][];
  value: Value;
  onPick: (value: Value) => void;
  label: string;
}

/** A choice of a few. */
export function Tabs<Value>({ of, value, onPick, label }: TabsProps<Value>) {
  return (
    <div class="tabs" role="group" aria-label={label}>
      {of.map(([key, word]) => (
        <button type="button" aria-pressed={key === value} onClick={() => onPick(key)}>
          {word}
        </button>
      ))}
    </div>
  );
}

interface ChoiceProps {
  label: ComponentChildren;
  value?: string;
  /** Values and their words. */
  of: [string, string][];
  /** The word for no value. */
  none: string;
  /** The words are names of what somebody saved. */
  areNames?: boolean;
  onPick: (value: string) => void;
}

export function Choice({ label, value = '', of, none, areNames = false, onPick }: ChoiceProps) {
  return (
    <label class={`select${value ? ' on' : ''}`}>
      {label}{' '}
      <select value={value} onChange={(event) => onPick(event.currentTarget.value)}>
        <option value="">{none}</option>
        {of.map(([key, word]) => (
          <option value={key} translate={!areNames}>
            {word}
          </option>
        ))}
      </select>
    </label>
  );
}

/** A text of a filter that is typed: the address follows when typing pauses. */
export function Typed(props: {
  label: string;
  value: string;
  onType: (text: string) => void;
  /** Texts that are offered. */
  of?: string[];
  onFocus?: () => void;
}) {
  const { label, value, onType, of = [], onFocus } = props;
  const id = useId();
  const [text, setText] = useState(value);
  const timer = useRef(0);
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (document.activeElement !== box.current) setText(value);
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (next: string) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => onType(next), TYPING_MS);
  };
  return (
    <>
      <input
        ref={box}
        type="search"
        class="filter"
        placeholder={label}
        aria-label={label}
        value={text}
        list={of.length > 0 ? id : undefined}
        onFocus={onFocus}
        onInput={(event) => type(event.currentTarget.value)}
      />
      {of.length > 0 && (
        <datalist id={id}>
          {of.map((option) => (
            <option value={option} key={option} />
          ))}
        </datalist>
      )}
    </>
  );
}
