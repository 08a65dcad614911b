// The layouter: whether it is on, what waits for it, what it moved of late, what holds it back.
import { useState } from 'preact/hooks';
import { newestEvents, OVERVIEW } from '../api';
import { folded } from '../folding';
import * as f from '../format';
import { url } from '../json';
import { recentMoves, type RecentMoves } from '../layouter_moves';
import type {
  EventRecord,
  LayouterStatus,
  Page,
  Session,
  StreamEntity,
  StreamerEntity,
} from '../model';
import { Dialog, Failure, Mark, Panel, StreamerLink, Tile, Time, Warnings } from '../parts';
import { mayRead } from '../permitted';
import { useQuery, type QueryResult } from '../query';
import { href, type ScreenProps } from '../router';
import type { Settings } from '../settings';
import { saveSetting, useSettings } from '../settings_query';
import { useSteps } from '../steps';
import { code, t } from '../text';
import { EventLines } from './event_line';
import { PauseActions, PauseLine, QueuePanel } from './pause';
import { isSwitchedOn, SettingValue, settingWord } from './setting_value';

const SHOWN_STREAMERS = 12;
const SETTINGS = [
  'layouter_failback',
  'layouter_rebalance',
  'layouter_backups_count_as_channels',
  'layouter_sleeping_interval',
  'streamer_dead_timeout',
];
const HOLDS = newestEvents(10, {
  event:
    'layouter_brake_on,layouter_brake_off,layouter_cpu_pressure,layouter_paused,layouter_resumed',
});
const NOT_UP = url('/streamers', {
  'state.name_ne': 'up',
  limit: SHOWN_STREAMERS,
  select: 'hostname,state',
});

const isAboutStreamers = (events: EventRecord[]) =>
  events.some((it) => it.entity_type === 'streamer' || it.event === 'layouter_streamer_state');

interface SwitchProps {
  isOn: boolean;
  unplaced: number | null;
  onSaved: (settings: Settings) => void;
  onClose: () => void;
}

/** What switching it on or off does, then the change. */
function Switch({ isOn, unplaced, onSaved, onClose }: SwitchProps) {
  const { error, isBusy, run } = useSteps();
  const save = () =>
    run(async () => onSaved(await saveSetting('layouter_enabled', isOn ? 'false' : 'true')));
  const word = isOn ? t('layouter.switch_off') : t('layouter.switch_on');
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy} onClick={save}>
        {word}
      </button>
    </>
  );
  return (
    <Dialog title={word} onClose={onClose} actions={actions}>
      <p>{isOn ? t('layouter.off_means') : t('layouter.on_means')}</p>
      {!isOn && unplaced !== null && <p class="lead">{t('need.unplaced', { n: unplaced })}</p>}
      <Failure error={error} />
    </Dialog>
  );
}

interface TitleProps {
  settings: Settings;
  me: Session;
  onSwitch: () => void;
}

function Title({ settings, me, onSwitch }: TitleProps) {
  const isOn = isSwitchedOn(settings, 'layouter_enabled');
  return (
    <div class="bar-top">
      <h1>
        <Mark of={isOn ? 'running' : 'disabled'} /> {t('layouter.title')}{' '}
        <small>
          <SettingValue settings={settings} name="layouter_enabled" />
        </small>
      </h1>
      <span class="grow" />
      {!me.may.admin && <span class="muted">{t('error.administrators_only')}</span>}
      <button disabled={!me.may.admin} onClick={onSwitch}>
        {isOn ? t('layouter.switch_off') : t('layouter.switch_on')} …
      </button>
    </div>
  );
}

function MovesPanel({ moves }: { moves: RecentMoves }) {
  return (
    <Panel
      title={t('layouter.moves')}
      aside={<a href={href('events', [], RUN_EVENTS)}>{t('recent.all')}</a>}
    >
      <ul class="lines">
        {moves.reasons.map(([reason, n]) => (
          <li key={reason}>
            <span>{code('reason', reason)}</span>
            <span class="muted">{f.count(n)}</span>
          </li>
        ))}
        {moves.reasons.length === 0 && <li class="muted">{t('layouter.no_moves')}</li>}
      </ul>
    </Panel>
  );
}
const RUN_EVENTS = { kind: 'layouter_processing_result' };

type StreamersPage = Page<'streamers', StreamerEntity>;

function NotUpPanel({ of: { data, error } }: { of: QueryResult<StreamersPage> }) {
  const rest = data ? data.estimated_count - data.streamers.length : 0;
  return (
    <Panel
      title={t('layouter.not_up')}
      aside={<a href={href('streamers', [], { sort: 'state' })}>{t('nav.back_streamers')}</a>}
    >
      <Failure error={error} />
      <ul class="lines">
        {data?.streamers.map(({ hostname, state }) => (
          <li key={hostname}>
            <Mark of={state?.name ?? 'unknown'} />
            <StreamerLink hostname={hostname} />
            <span>
              {t(`state.${state?.name ?? 'unknown'}`)}
              {state?.cause && `: ${code('cause', state.cause)}`}
            </span>
            <span class="muted">
              <Time at={state?.since} />
            </span>
          </li>
        ))}
        {rest > 0 && <li class="muted">{t('bulk.more', { n: rest })}</li>}
        {data?.streamers.length === 0 && <li class="muted">{t('layouter.all_up')}</li>}
      </ul>
    </Panel>
  );
}

function SettingsPanel({ settings }: { settings: Settings }) {
  return (
    <Panel title={t('layouter.settings')}>
      <dl class="facts wide">
        {SETTINGS.map((name) => (
          <>
            <dt>{settingWord(name)}</dt>
            <dd>
              <SettingValue settings={settings} name={name} />
            </dd>
          </>
        ))}
      </dl>
    </Panel>
  );
}

function Tiles({ unplaced, notUp, moves }: Numbers) {
  const unplacedList = href('streams', [], { placed: 'no', enabled: 'yes' });
  return (
    <div class="tiles">
      <Tile title={t('layouter.unplaced')} value={f.count(unplaced)} to={unplacedList} />
      <Tile title={t('layouter.moves')} value={f.count(moves?.total)} />
      <Tile title={t('layouter.not_up')} value={f.count(notUp)} />
    </div>
  );
}
interface Numbers {
  unplaced: number | undefined;
  notUp: number | undefined;
  /** Unknown to a session that may not read the layouter. */
  moves: RecentMoves | null;
}

export function Layouter({ me }: ScreenProps) {
  const settings = useSettings();
  const unplaced = useQuery<Page<'streams', StreamEntity>>(OVERVIEW.unplaced, { every: 5000 });
  const notUp = useQuery<StreamersPage>(NOT_UP, { every: 5000, wake: isAboutStreamers });
  const holds = useQuery<Page<'events', EventRecord>>(HOLDS, { wake: () => true });
  const status = useQuery<LayouterStatus>(mayRead(me, 'layouter') ? '/layouter' : null, {
    every: 5000,
    wake: () => true,
  });
  const [isAsked, setAsked] = useState(false);
  const [warnings, setWarnings] = useState<string[]>([]);
  if (!settings.data) {
    return settings.error ? (
      <Failure error={settings.error} again={settings.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const moves = status.data && recentMoves(status.data);
  const count = unplaced.data?.estimated_count;
  const saved = (now: Settings) => {
    setAsked(false);
    setWarnings(now.warnings);
    settings.again();
  };
  return (
    <>
      <Title settings={settings.data} me={me} onSwitch={() => setAsked(true)} />
      <Warnings of={warnings} />
      {isAsked && (
        <Switch
          isOn={isSwitchedOn(settings.data, 'layouter_enabled')}
          unplaced={count ?? null}
          onSaved={saved}
          onClose={() => setAsked(false)}
        />
      )}
      <Failure error={settings.error ?? unplaced.error ?? status.error} again={settings.again} />
      {status.data?.paused && <PauseLine pause={status.data.paused} />}
      {status.data && <PauseActions status={status.data} me={me} onChanged={status.again} />}
      <Tiles unplaced={count} notUp={notUp.data?.estimated_count} moves={moves} />
      <div class="columns">
        <div class="stacked">
          {status.data && <QueuePanel status={status.data} />}
          {moves && <MovesPanel moves={moves} />}
          <SettingsPanel settings={settings.data} />
        </div>
        <div class="stacked">
          <NotUpPanel of={notUp} />
          <Panel title={t('layouter.holds')}>
            <Failure error={holds.error} />
            <EventLines events={folded(holds.data?.events ?? [])} none={t('layouter.no_holds')} />
          </Panel>
        </div>
      </div>
    </>
  );
}
