// The settings of the server, without their secrets: those never reach the state of the page.
import type { Json } from './json';
import { t } from './text';

/** What stands for a secret. The server takes it for the present value. */
const MASK = '***';
const SECRETS = ['api_key', 'edit_auth'];

export const isSecret = (name: string) => SECRETS.includes(name);
/** There is always a key. */
export const mayBeRemoved = (name: string) => name !== 'api_key';

/** The value of a secret setting, of what was typed: the login has a name and a password. */
export const secretValue = (name: string, login: string, text: string): Json =>
  name === 'edit_auth' ? { login: login.trim(), password: text } : text;

/** `word`: the text `true` or `false`; `flag`: a boolean; `ms`: milliseconds. */
type SettingKind = 'word' | 'flag' | 'ms' | 'number' | 'text';

/** What a setting holds. One that is not known here is a text. */
const KINDS: Record<string, SettingKind> = {
  layouter_enabled: 'word',
  layouter_failback: 'word',
  layouter_rebalance: 'word',
  layouter_backups_count_as_channels: 'word',
  layouter_sleeping_interval: 'ms',
  streamer_dead_timeout: 'ms',
  streamer_healthcheck_fails_threshold: 'number',
  'cluster.node_config_provision_enabled': 'flag',
  'cluster.streamer_connector_retries': 'number',
  config_external_reconciliation_interval: 'ms',
  episodes_buffer_delay: 'ms',
  episodes_buffer_limit: 'number',
  log_requests: 'word',
};

export const kindOf = (name: string): SettingKind => KINDS[name] ?? 'text';

/** The value that a text in the field of a setting means. */
export function typedValue(name: string, text: string): Json {
  switch (kindOf(name)) {
    case 'flag':
      return text === 'true';
    case 'ms':
    case 'number':
      if (!/^\d{1,15}$/.test(text.trim())) throw new Error(t('setting.not_whole'));
      return Number(text);
    default:
      return text;
  }
}

export interface SettingSource {
  from: 'default' | 'file' | 'environment' | 'flag';
  /** Of the file, variable or flag. */
  name?: string;
}

export interface Settings {
  /** By names such as `cluster.streamer_connector_retries`; `null`: not set. */
  values: Record<string, Json>;
  sources: Record<string, SettingSource>;
  /** Settings that come into force with the next start. */
  restart: string[];
  /** Sentences about a save. */
  warnings: string[];
}

interface ConfigAnswer {
  sources: Record<string, SettingSource>;
  restart_required?: string[];
  warnings?: { title: string }[];
}

function memberOf(config: Json, name: string): Json {
  let value: Json = config;
  for (const part of name.split('.')) {
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    value = isObject ? ((value as Record<string, Json>)[part] ?? null) : null;
  }
  return value;
}

/** A text without the password of an address in it. */
const withoutPassword = (value: Json): Json =>
  typeof value === 'string' ? value.replace(/(:\/\/[^/:@]*):[^/@]*@/, `$1:${MASK}@`) : value;

/** What is kept of the answer. */
export function settingsOf(answer: unknown): Settings {
  const { sources, restart_required: restart = [], warnings = [] } = answer as ConfigAnswer;
  const names = Object.keys(sources).filter((name) => !isSecret(name));
  const values = names.map((name) => [name, withoutPassword(memberOf(answer as Json, name))]);
  return {
    values: Object.fromEntries(values),
    sources,
    restart,
    warnings: warnings.map(({ title }) => title),
  };
}

/** The body that changes one setting; `null` removes it from the file. */
export function changeOf(name: string, value: Json): Record<string, Json> {
  const [first = '', second] = name.split('.');
  const change = second === undefined ? { [first]: value } : { [first]: { [second]: value } };
  return { api_key: MASK, ...change };
}
