// Which screens a session is shown. The server checks every request itself.
import type { Session } from './model';

export type ScreenName =
  | 'overview'
  | 'streamers'
  | 'streams'
  | 'events'
  | 'whatif'
  | 'layouter'
  | 'agents'
  | 'tokens'
  | 'auth'
  | 'balancers'
  | 'settings';
/** Those that a narrow page has room for. */
export const MAIN_SCREENS: ScreenName[] = ['overview', 'streamers', 'streams', 'events'];
export const SCREENS: ScreenName[] = [
  ...MAIN_SCREENS,
  'whatif',
  'layouter',
  'agents',
  'tokens',
  'auth',
  'balancers',
  'settings',
];

/** The collection that a screen reads. */
const COLLECTIONS: Record<ScreenName, string> = {
  overview: 'cluster',
  streamers: 'streamers',
  streams: 'streams',
  events: 'events',
  whatif: 'cluster',
  layouter: 'layouter',
  agents: 'agents',
  tokens: 'api_tokens',
  auth: 'auth_backends',
  balancers: 'load-balancers',
  settings: 'config',
};

/** The screens of which the session may read something. */
export const permittedScreens = (me: Session): ScreenName[] =>
  SCREENS.filter((name) => mayRead(me, COLLECTIONS[name]));

/** Whether the session may read something of a collection. */
export const mayRead = ({ may, scopes }: Session, collection: string): boolean =>
  may.admin ||
  (may.read && scopes.some((scope) => scope === '*' || scope.split('/')[0] === collection));
