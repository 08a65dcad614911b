// The search in the header: streamers and streams by any part of their names.
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, get } from './api';
import { url } from './json';
import type { Page, Session, StreamEntity, StreamerEntity } from './model';
import { Given, Name } from './parts';
import { permittedScreens, type ScreenName } from './permitted';
import { go, href } from './router';
import { t } from './text';

const LETTERS_MIN = 2;
const PAUSE_MS = 180;

interface Found {
  streamers: StreamerEntity[];
  streams: StreamEntity[];
  total: number;
}

/** A page of a collection, empty if the session may not list it. */
async function findIn<Name extends ScreenName, Row>(
  me: Session,
  collection: Name,
  query: Record<string, unknown>,
  signal: AbortSignal,
): Promise<Partial<Page<Name, Row>>> {
  if (!permittedScreens(me).includes(collection)) return {};
  try {
    return await get<Page<Name, Row>>(url(`/${collection}`, query), { signal });
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) return {};
    throw error;
  }
}

async function find(me: Session, q: string, signal: AbortSignal): Promise<Found> {
  const streamersQuery = { q, limit: 5, select: 'hostname' };
  const streamsQuery = { q, limit: 8, select: 'name,title' };
  const [{ streamers = [] }, { streams = [], estimated_count: total = 0 }] = await Promise.all([
    findIn<'streamers', StreamerEntity>(me, 'streamers', streamersQuery, signal),
    findIn<'streams', StreamEntity>(me, 'streams', streamsQuery, signal),
  ]);
  return { streamers, streams, total };
}

function useFound(me: Session, text: string): Found | null {
  const [found, set] = useState<Found | null>(null);
  useEffect(() => {
    if (text.length < LETTERS_MIN) {
      set(null);
      return undefined;
    }
    const abort = new AbortController();
    // A failed search is repeated with the next letter.
    const read = () => void find(me, text, abort.signal).then(set, () => {});
    const timer = setTimeout(read, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [me, text]);
  return found;
}

interface ResultsProps {
  found: Found;
  text: string;
  at: number;
  onPick: (to: string) => void;
}

/** Where the results lead, in their order. */
function targets(found: Found | null, text: string): string[] {
  if (!found) return [];
  const all = found.total > found.streams.length ? [href('streams', [], { q: text })] : [];
  return [
    ...found.streamers.map((streamer) => href('streamers', [streamer.hostname])),
    ...found.streams.map((stream) => href('streams', [stream.name])),
    ...all,
  ];
}

function Results({ found, text, at, onPick }: ResultsProps) {
  const option = (index: number, to: string) => ({
    role: 'option' as const,
    id: `found-${index}`,
    'aria-selected': index === at,
    onClick: () => onPick(to),
  });
  const to = targets(found, text);
  const first = found.streamers.length;
  const all = first + found.streams.length;
  return (
    <ul id="found" role="listbox" aria-label={t('search.results')}>
      {found.streamers.map((streamer, n) => (
        <li {...option(n, to[n] ?? '')}>
          <small>{t('search.streamer')}</small> <Given text={streamer.hostname} />
        </li>
      ))}
      {found.streams.map((stream, n) => (
        <li {...option(first + n, to[first + n] ?? '')}>
          <small>{t('search.stream')}</small> <Name name={stream.name} link={false} />{' '}
          <span class="muted" translate={false}>{stream.title}</span>
        </li>
      ))}
      {to[all] && <li {...option(all, to[all])}>{t('search.all', { n: found.total })}</li>}
      {to.length === 0 && (
        <li role="option" aria-selected={false} aria-disabled={true} class="muted">
          {t('search.none')}
        </li>
      )}
    </ul>
  );
}

const isTyping = (target: EventTarget | null) =>
  target instanceof Element && target.closest('input,textarea,select,[contenteditable]') !== null;

export function Search({ me }: { me: Session }) {
  const box = useRef<HTMLInputElement>(null);
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const [isOpen, setOpen] = useState(false);
  const closing = useRef(0);
  const found = useFound(me, text);
  useEffect(() => setAt(0), [found]);
  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (event.key !== '/' || isTyping(event.target)) return;
      event.preventDefault();
      box.current?.focus();
      box.current?.select();
    };
    addEventListener('keydown', focus);
    return () => removeEventListener('keydown', focus);
  }, []);
  // A click on a result comes after the blur.
  const enter = () => {
    clearTimeout(closing.current);
    setOpen(true);
  };
  const closeSoon = () => {
    clearTimeout(closing.current);
    closing.current = window.setTimeout(() => setOpen(false), 150);
  };
  const leave = () => {
    setOpen(false);
    box.current?.blur();
  };
  const pick = (to: string) => {
    leave();
    go(to);
  };
  const to = targets(found, text);
  const keys = (event: KeyboardEvent) => {
    const last = Math.max(0, to.length - 1);
    if (event.key === 'ArrowDown') setAt(Math.min(last, at + 1));
    else if (event.key === 'ArrowUp') setAt(Math.max(0, at - 1));
    else if (event.key === 'Enter') pick(to[at] ?? href('streams', [], { q: text }));
    else if (event.key === 'Escape') leave();
    else return;
    event.preventDefault();
  };
  const isShown = isOpen && found !== null;
  return (
    <div class="search" onFocusIn={enter}>
      <input
        ref={box}
        type="search"
        role="combobox"
        list={undefined}
        aria-expanded={isShown}
        aria-controls="found"
        aria-activedescendant={isShown && to.length ? `found-${at}` : undefined}
        aria-label={t('search.placeholder')}
        placeholder={t('search.placeholder')}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={keys}
        onBlur={closeSoon}
        autocomplete="off"
        spellcheck={false}
      />
      <kbd aria-hidden="true">/</kbd>
      {isShown && <Results found={found} text={text} at={at} onPick={pick} />}
    </div>
  );
}
