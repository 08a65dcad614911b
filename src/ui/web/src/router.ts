// Every screen is an address: `/ui/#/streams?q=berlin`. Behind the hash, so that the page works
// behind every proxy. Links name the page itself, because relative ones belong to the files.
import { useEffect, useState } from 'preact/hooks';
import type { Session } from './model';

export interface Route {
  screen: string;
  rest: string[];
  query: Record<string, string>;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What every screen is given. */
export interface ScreenProps {
  route: Route;
  me: Session;
}

/** The route that a hash names. */
export function readRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#/, '').split(/\?(.*)/s);
  const parts = path.split('/').filter(Boolean).map(decode);
  return {
    screen: parts[0] ?? '',
    rest: parts.slice(1),
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** The hash that names a screen. */
export function hashOf(
  screen: string,
  rest: string[] = [],
  query: Record<string, string | number | null | undefined> = {},
): string {
  const path = [screen, ...rest].map(encodeURIComponent).join('/');
  const given = Object.entries(query).filter(([, v]) => v !== '' && v !== null && v !== undefined);
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return `#/${path}${text ? `?${text}` : ''}`;
}

export const href = (...to: Parameters<typeof hashOf>) => location.pathname + hashOf(...to);

export function go(to: string, { replace = false } = {}): void {
  if (replace) {
    history.replaceState(null, '', to);
    dispatchEvent(new HashChangeEvent('hashchange'));
  } else {
    history.pushState(null, '', to);
    dispatchEvent(new HashChangeEvent('hashchange'));
  }
}

export function useRoute(): Route {
  const [route, set] = useState(readRoute(location.hash));
  useEffect(() => {
    const changed = () => set(readRoute(location.hash));
    addEventListener('hashchange', changed);
    addEventListener('popstate', changed);
    return () => {
      removeEventListener('hashchange', changed);
      removeEventListener('popstate', changed);
    };
  }, []);
  return route;
}
