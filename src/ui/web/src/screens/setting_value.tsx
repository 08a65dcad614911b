// The value of a setting in words, and where it comes from.
import * as f from '../format';
import type { Json } from '../json';
import type { SettingSource, Settings } from '../settings';
import { code, t } from '../text';

type SettingKind = 'switch' | 'ms' | 'number' | 'text';

/** What a setting holds. One that is not known here is a text. */
const KINDS: Record<string, SettingKind> = {
  layouter_enabled: 'switch',
  layouter_failback: 'switch',
  layouter_rebalance: 'switch',
  layouter_backups_count_as_channels: 'switch',
  layouter_sleeping_interval: 'ms',
  streamer_dead_timeout: 'ms',
  streamer_healthcheck_fails_threshold: 'number',
  'cluster.node_config_provision_enabled': 'switch',
  'cluster.streamer_connector_retries': 'number',
  config_external_reconciliation_interval: 'ms',
  episodes_buffer_delay: 'ms',
  episodes_buffer_limit: 'number',
  log_requests: 'switch',
};

export const kindOf = (name: string): SettingKind => KINDS[name] ?? 'text';

const isOn = (value: Json) => value === true || value === 'true';

function inWords(name: string, value: Json): string {
  if (value === null) return t('setting.unset');
  switch (kindOf(name)) {
    case 'switch':
      return isOn(value) ? t('setting.on') : t('setting.off');
    case 'ms':
      return f.milliseconds(Number(value));
    case 'number':
      return f.count(Number(value));
    case 'text':
      return String(value);
  }
}

export const isSwitchedOn = ({ values }: Settings, name: string) => isOn(values[name] ?? null);

const sourceWord = ({ from, name }: SettingSource) =>
  name ? `${t(`source.${from}`)} ${name}` : t(`source.${from}`);

export function Source({ of }: { of: SettingSource | undefined }) {
  return of ? <span class="muted">{sourceWord(of)}</span> : null;
}

export function SettingValue({ settings, name }: { settings: Settings; name: string }) {
  return (
    <>
      <b>{inWords(name, settings.values[name] ?? null)}</b> <Source of={settings.sources[name]} />
    </>
  );
}

/** The name of a setting in words; one that is not known here by its own name. */
export const settingWord = (name: string) => code('setting', name);
