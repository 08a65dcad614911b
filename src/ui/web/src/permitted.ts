// Which screens a session is shown. The server checks every request itself.
import type { Session } from './model';

export type ScreenName = 'overview' | 'streamers' | 'streams' | 'events';
export const SCREENS: ScreenName[] = ['overview', 'streamers', 'streams', 'events'];

/** The collection that a screen reads. */
const COLLECTIONS: Record<ScreenName, string> = {
  overview: 'cluster',
  streamers: 'streamers',
  streams: 'streams',
  events: 'events',
};

/** The screens of which the session may read something. */
export function permittedScreens({ may, scopes }: Session): ScreenName[] {
  const touches = (collection: string) =>
    scopes.some((scope) => scope === '*' || scope.split('/')[0] === collection);
  return SCREENS.filter((name) => may.admin || (may.read && touches(COLLECTIONS[name])));
}
