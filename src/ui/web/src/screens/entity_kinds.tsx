// The kinds of entities that have a list with dialogs.
import type { Session } from '../model';
import { Mark, StreamerLink, Time } from '../parts';
import { href, type ScreenProps } from '../router';
import type { Column } from '../table';
import { code, t, type TextKey } from '../text';
import { Entities } from './entities';
import type { Entity, EntityKind } from './entity_kind';

interface Agent {
  id: string;
  layout?: { ingest?: string } | null;
  stats?: {
    agent_type?: string;
    version?: string;
    peer_ip?: string;
    endpoint_connection?: { alive?: boolean };
  } | null;
  updated_at?: number;
}
interface Permission extends Partial<Record<Action, boolean>> {
  scopes: string[];
}
const ACTIONS = ['list', 'read', 'write', 'execute'] as const;
type Action = (typeof ACTIONS)[number];

/** A column of rows whose form is known. */
function column<Row>(
  id: string,
  head: TextKey,
  cell: (row: Row) => ReturnType<Column<Row>['cell']>,
  rest: Partial<Column<Entity>> = {},
): Column<Entity> {
  return { id, head: t(head), cell: (row) => cell(row as unknown as Row), ...rest };
}

/** The name, which opens the dialog. */
const named = (screen: EntityKind['screen'], key: 'id' | 'name') =>
  column<Record<string, string>>(
    'name',
    'entity.name',
    (row) => (
      <a class="name" href={href(screen, [row[key] ?? ''])} translate={false}>
        {row[key]}
      </a>
    ),
    { sort: key },
  );

const members = (of: unknown) => (Array.isArray(of) ? of : []);
const counted = (of: unknown) => String(members(of).length);
const quiet = { class: 'hide-m' };
const everyWriter = {
  mayWrite: (me: Session) => me.may.write,
  whyNot: t('error.not_permitted'),
};

const AGENTS: EntityKind = {
  screen: 'agents',
  path: '/agents',
  collection: 'agents',
  key: 'id',
  about: 'agent',
  table: 'agents',
  select:
    'id,layout.ingest,stats.agent_type,stats.version,stats.peer_ip,' +
    'stats.endpoint_connection.alive,updated_at',
  columns: [
    named('agents', 'id'),
    column<Agent>('connected', 'col.connected', ({ stats }) => {
      const isAlive = stats?.endpoint_connection?.alive ?? false;
      return (
        <>
          <Mark of={isAlive ? 'up' : 'none'} /> {isAlive ? t('filter.yes') : t('filter.no')}
        </>
      );
    }),
    column<Agent>(
      'where',
      'col.where',
      ({ layout }) => <StreamerLink hostname={layout?.ingest} />,
      quiet,
    ),
    column<Agent>('type', 'col.type', ({ stats }) => stats?.agent_type ?? '–', quiet),
    column<Agent>('version', 'col.version', ({ stats }) => stats?.version ?? '–', quiet),
    column<Agent>('address', 'col.address', ({ stats }) => stats?.peer_ip ?? '–', quiet),
    column<Agent>('changed', 'col.changed', (row) => <Time at={row.updated_at} />, quiet),
  ],
  editable: [],
  secret: { member: 'key', mayRemove: true },
  example: {},
  commands: [
    ['reboot', t('agents.reboot')],
    ['reset', t('agents.reset')],
    ['disconnect', t('agents.disconnect')],
  ],
  ...everyWriter,
};

/** What permissions allow, as `list, read: streams/*`. */
function permissionText({ scopes, ...may }: Permission): string {
  const actions = ACTIONS.filter((action) => may[action]);
  return `${actions.join(', ') || '–'}: ${scopes.join(' + ')}`;
}

const TOKENS: EntityKind = {
  screen: 'tokens',
  path: '/api_tokens',
  collection: 'api_tokens',
  key: 'name',
  about: 'api_token',
  table: 'tokens',
  select: 'name,permissions,auth_scopes',
  columns: [
    named('tokens', 'name'),
    column<{ permissions?: Permission[] }>('may', 'col.may', ({ permissions = [] }) => (
      <span title={permissions.map(permissionText).join('\n')} translate={false}>
        {permissions.map(permissionText).join('; ') || '–'}
      </span>
    )),
  ],
  editable: ['permissions', 'auth_scopes'],
  secret: { member: 'key', mayRemove: false },
  example: { permissions: [{ scopes: ['*'], list: true, read: true }] },
  commands: [],
  mayWrite: (me) => me.may.admin,
  whyNot: t('error.administrators_only'),
};

const RULES = ['tokens', 'ips', 'countries', 'uas'].flatMap((of) => [`allow_${of}`, `deny_${of}`]);

const AUTH: EntityKind = {
  screen: 'auth',
  path: '/auth_backends',
  collection: 'auth_backends',
  key: 'name',
  about: 'auth_backend',
  table: 'auth',
  select: ['name', 'allow_default', 'backends', ...RULES].join(','),
  columns: [
    named('auth', 'name'),
    column<Entity>('rules', 'col.rules', (row) =>
      String(RULES.reduce((sum, rule) => sum + members(row[rule]).length, 0)),
    ),
    column<{ backends?: { url?: string }[] | null }>(
      'backends',
      'col.backends',
      ({ backends }) => (backends ?? []).map(({ url }) => url).join(', ') || '–',
      quiet,
    ),
    column<{ allow_default?: boolean }>(
      'otherwise',
      'col.otherwise',
      (row) => (row.allow_default ? t('auth.allowed') : t('auth.denied')),
      quiet,
    ),
  ],
  editable: ['allow_default', 'backends', ...RULES],
  example: { allow_default: false, allow_ips: ['10.0.0.0/8'] },
  commands: [],
  ...everyWriter,
};

const BALANCERS: EntityKind = {
  screen: 'balancers',
  path: '/load-balancers',
  collection: 'balancers',
  key: 'name',
  about: 'load_balancer',
  table: 'balancers',
  select: 'name,mode,servers',
  columns: [
    named('balancers', 'name'),
    column<{ mode?: string }>('mode', 'col.mode', (row) => (row.mode ? code('mode', row.mode) : '–')),
    column<Entity>('servers', 'col.servers', (row) => counted(row.servers), quiet),
  ],
  editable: ['mode', 'servers'],
  example: { mode: 'bitrate', servers: [] },
  commands: [],
  ...everyWriter,
};

const screenOf = (kind: EntityKind) => (props: ScreenProps) => <Entities {...props} kind={kind} />;
export const Agents = screenOf(AGENTS);
export const Tokens = screenOf(TOKENS);
export const Auth = screenOf(AUTH);
export const Balancers = screenOf(BALANCERS);
