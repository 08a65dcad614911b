// The frame around the screens: the session, the navigation, the current screen.
import { render, type ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { session, whenUnauthorized } from './api';
import { Connection } from './connection';
import { start, stop } from './live';
import { Login } from './login';
import { Menu } from './menu';
import type { Session } from './model';
import { permittedScreens, SCREENS, type ScreenName } from './permitted';
import { forgetAnswers } from './query';
import { More, Rail } from './rail';
import { go, href, useRoute, type Route, type ScreenProps } from './router';
import { Agents, Auth, Balancers, Tokens } from './screens/entity_kinds';
import { Events } from './screens/events';
import { Layouter } from './screens/layouter';
import { Overview } from './screens/overview';
import { Settings } from './screens/settings';
import { Stream } from './screens/stream';
import { Streamer } from './screens/streamer';
import { Streamers } from './screens/streamers';
import { Streams } from './screens/streams';
import { WhatIf } from './screens/whatif';
import { Search } from './search';
import { locale, t } from './text';
import { showTheme, theme } from './theme';

const LISTS: Record<ScreenName, ComponentType<ScreenProps>> = {
  overview: Overview,
  streamers: Streamers,
  streams: Streams,
  events: Events,
  whatif: WhatIf,
  layouter: Layouter,
  agents: Agents,
  tokens: Tokens,
  auth: Auth,
  balancers: Balancers,
  settings: Settings,
};
/** The screens about one entity. */
const ENTITIES: Partial<Record<ScreenName, ComponentType<ScreenProps>>> = {
  streamers: Streamer,
  streams: Stream,
};
/** The letter after `g` that leads to a screen. */
const LETTERS: Record<string, ScreenName> = {
  o: 'overview',
  n: 'streamers',
  s: 'streams',
  e: 'events',
  w: 'whatif',
  l: 'layouter',
  a: 'agents',
  t: 'tokens',
  u: 'auth',
  b: 'balancers',
  c: 'settings',
};
const LETTER_WITHIN_MS = 1200;

/** The screen of a route; without one, the first that the session may read. */
const screenOf = (route: Route, me: Session): ScreenName | 'more' =>
  [...SCREENS, 'more' as const].find((name) => name === route.screen) ??
  permittedScreens(me)[0] ??
  'overview';

function Screen({ route, me }: ScreenProps) {
  const name = screenOf(route, me);
  if (name === 'more') return <More me={me} />;
  const Entity = route.rest.length > 0 ? ENTITIES[name] : undefined;
  // A list stays as it is behind the dialog about one of its rows.
  if (!Entity) {
    const List = LISTS[name];
    return <List key={name} route={route} me={me} />;
  }
  return <Entity key={[name, ...route.rest].join('/')} route={route} me={me} />;
}

/** `g` and a letter lead to a screen. */
function useLetters(): void {
  useEffect(() => {
    let since = -Infinity;
    const onKey = (event: KeyboardEvent) => {
      const isText =
        event.target instanceof Element && event.target.closest('input,textarea,select');
      if (isText || event.metaKey || event.ctrlKey || event.altKey) return;
      const to = LETTERS[event.key];
      if (event.key === 'g') since = event.timeStamp;
      else if (to && event.timeStamp - since < LETTER_WITHIN_MS) go(href(to));
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
}

function toContent(event: MouseEvent): void {
  event.preventDefault();
  document.querySelector('main')?.focus();
}

/** `undefined`: not known yet; `null`: there is none. */
function useSession() {
  const [me, set] = useState<Session | null | undefined>(undefined);
  const end = () => {
    stop();
    forgetAnswers();
    set(null);
  };
  useEffect(() => {
    whenUnauthorized(end);
    session.read().then(set, end);
  }, []);
  useEffect(() => {
    if (me) start();
  }, [me]);
  return { me, set, end };
}

function App() {
  const route = useRoute();
  const { me, set, end } = useSession();
  useLetters();
  const at = me ? screenOf(route, me) : null;
  useEffect(() => {
    const screen = at ? [...route.rest, t(`nav.${at}`)] : [];
    document.title = [...screen, 'Weir'].join(' · ');
  }, [route, at]);
  if (me === undefined) return <p class="boot">{t('loading')}</p>;
  if (me === null) return <Login onDone={set} />;
  const logout = () => void session.close().then(end, end);
  return (
    <>
      <a class="skip" href="#content" onClick={toContent}>
        {t('nav.skip')}
      </a>
      <Rail at={screenOf(route, me)} me={me} />
      <header class="top">
        <Search me={me} />
        <Connection />
        <Menu me={me} onLogout={logout} />
      </header>
      <main id="content" tabindex={-1}>
        <Screen route={route} me={me} />
      </main>
    </>
  );
}

document.documentElement.lang = locale;
showTheme(theme());
const root = document.getElementById('app');
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
