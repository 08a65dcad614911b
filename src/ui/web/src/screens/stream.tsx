// One stream: where it runs and why, where it has been, who changed it, its configuration.
import { useState } from 'preact/hooks';
import { isLayouterOff, newestEvents } from '../api';
import { changeShown, type Shown } from '../changes';
import { folded } from '../folding';
import * as f from '../format';
import { streamPath, url } from '../json';
import type { EventRecord, Explanation, Layout, Page, StreamEntity } from '../model';
import { Copy, Failure, JsonText, Labels, Mark, Panel, shortHost } from '../parts';
import { StreamerLink, Tabs, Time } from '../parts';
import { useQuery } from '../query';
import { go, href, type ScreenProps } from '../router';
import { withoutSecrets } from '../secrets';
import { code, t } from '../text';
import { EditStream, ToggleStream } from './edit';
import { Deletion } from './entity_dialogs';
import { EventLines } from './event_line';
import { Move } from './move';
import { runMark, runWord } from './stream_status';
import { Why } from './why';

const reason = (of: string | undefined) => code('reason', of ?? 'none');

function Where({ stream: { layout, stats } }: { stream: StreamEntity }) {
  if (!layout?.ingest) {
    return (
      <p class="lead">
        <Mark of="unplaced" /> {t('stream.nowhere')}
      </p>
    );
  }
  const backups = layout.dvr_backups ?? [];
  return (
    <dl class="facts">
      <dt>{t('stream.ingest')}</dt>
      <dd>
        <StreamerLink hostname={layout.ingest} />{' '}
        {layout.pinned && <span class="muted">{t('stream.pinned')}</span>}
      </dd>
      {backups.length > 0 && <dt>{t('stream.backup')}</dt>}
      {backups.length > 0 && (
        <dd>
          {backups.map((hostname) => (
            <>
              <StreamerLink hostname={hostname} />{' '}
            </>
          ))}
        </dd>
      )}
      <dt>{t('stream.since')}</dt>
      <dd>
        <Time at={layout.created_at} />{' '}
        <span class="muted">
          {reason(layout.change_reason)}
          {layout.originator !== 'layouter' &&
            layout.change_reason !== 'relayout_by_api' &&
            `, ${t('stream.by_hand')}`}
        </span>
      </dd>
      <dt>{t('stream.report')}</dt>
      <dd>{stats?.status ? t(`run.${stats.status}`) : t('run.none')}</dd>
      <dt>{t('col.bitrate')}</dt>
      <dd>{f.rate(stats?.bitrate)}</dd>
      <dt>{t('col.viewers')}</dt>
      <dd>{f.count(stats?.online_clients)}</dd>
      <dt>{t('stream.picture')}</dt>
      <dd>
        <Time at={stats?.last_dts_at} />
      </dd>
    </dl>
  );
}

function Past({ layouts }: { layouts: Layout[] }) {
  return (
    <ol class="timeline">
      {layouts.map((layout, index) => (
        <li class={index === 0 ? 'now' : ''}>
          <b>
            {layout.ingest ? <StreamerLink hostname={layout.ingest} /> : t('stream.at_nothing')}
          </b>
          <span class="muted">
            {reason(layout.change_reason)}
            {layout.failover_from &&
              `, ${t('stream.returns', { host: shortHost(layout.failover_from) })}`}
          </span>
          <Time at={layout.created_at} relative={false} />
        </li>
      ))}
    </ol>
  );
}

function Configuration({ stream }: { stream: StreamEntity }) {
  const [view, setView] = useState<'given' | 'effective'>('given');
  const { config_on_disk: given, layout: _layout, stats: _stats, ...effective } = stream;
  const shown = view === 'given' ? (given ?? {}) : effective;
  const views: ['given' | 'effective', string][] = [
    ['given', t('stream.given')],
    ['effective', t('stream.effective')],
  ];
  const aside = (
    <>
      <Tabs label={t('stream.which')} of={views} value={view} onPick={setView} />{' '}
      <Copy text={JSON.stringify(shown, null, 2)} />
    </>
  );
  return (
    <Panel title={t('stream.config')} aside={aside}>
      <JsonText value={shown} label={t('stream.config')} />
    </Panel>
  );
}

/** What a deletion stops. */
function consequences({ layout, stats }: StreamEntity): string {
  const { ingest, inference, dvr_backups: backups = [] } = layout ?? {};
  const hosts = [ingest, ...backups, inference].filter(Boolean);
  if (hosts.length === 0) return t('stream.nowhere');
  const viewers = t('stream.watched', { n: stats?.online_clients ?? 0 });
  return `${t('stream.stops', { hosts: hosts.join(', ') })} ${viewers}`;
}

interface TitleProps {
  stream: StreamEntity;
  mayWrite: boolean;
  onToggle: () => void;
  onMove: () => void;
  onDelete: () => void;
  onEdit: () => void;
}

function Title({ stream, mayWrite, onToggle, onMove, onDelete, onEdit }: TitleProps) {
  const why = mayWrite ? undefined : t('error.not_permitted');
  return (
    <div class="bar-top">
      <h1>
        <a class="back" href={href('streams')} aria-label={t('nav.back_streams')}>
          ‹
        </a>{' '}
        <Mark of={runMark(stream)} /> <span class="name-big" translate={false}>{stream.name}</span>{' '}
        <small>{runWord(stream)}</small>
      </h1>
      <span class="grow" />
      <button disabled={!mayWrite} title={why} onClick={onToggle}>
        {stream.disabled ? t('streams.enable') : t('streams.disable')}
      </button>
      <button disabled={!mayWrite} title={why} onClick={onMove}>
        {t('streams.move')} …
      </button>
      <button disabled={!mayWrite} title={why} onClick={onDelete}>
        {t('entity.delete')} …
      </button>
      <button class="primary" disabled={!mayWrite} title={why} onClick={onEdit}>
        {t('stream.edit')} …
      </button>
    </div>
  );
}

/** The calls of the screen; each is repeated when an event is about the stream. */
function useStream(name: string) {
  const concerns = (events: EventRecord[]) =>
    events.some(
      (it) =>
        it.entity_id === name ||
        it.entities_count !== undefined ||
        it.event === 'layouter_processing_result',
    );
  const options = { wake: concerns };
  const path = streamPath(name);
  return {
    entity: useQuery<StreamEntity>(path, {
      every: 5000,
      wake: concerns,
      keep: (answer) => withoutSecrets(answer) as StreamEntity,
    }),
    explained: useQuery<Explanation>(url(`${path}/layout/explain`, { group: 'reasons' }), options),
    past: useQuery<Page<'layouts', Layout>>(url(`${path}/layouts`, { limit: 20 }), options),
    log: useQuery<Page<'events', EventRecord>>(newestEvents(10, { stream: name }), options),
  };
}

function WhyPanel({ isPlaced, error, data }: { isPlaced: boolean } & ExplainState) {
  const isOff = isLayouterOff(error);
  return (
    <Panel title={isPlaced ? t('stream.why') : t('stream.why_not')}>
      {isOff ? <p class="muted">{t('why.off')}</p> : <Failure error={error} />}
      {!isOff && data && <Why explanation={data} />}
    </Panel>
  );
}
type ExplainState = { error: Error | null; data: Explanation | null };

export function Stream({ route, me }: ScreenProps) {
  const name = route.rest[0] ?? '';
  const { entity, explained, past, log } = useStream(name);
  const [dialog, setDialog] = useState<'edit' | 'move' | 'toggle' | null>(null);
  // A deletion is of the version that was shown when it was opened.
  const [deleted, setDeleted] = useState<Shown | null>(null);
  const [failed, setFailed] = useState<Error | null>(null);
  const stream = entity.data;
  if (!stream) {
    return entity.error ? (
      <Failure error={entity.error} again={entity.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const refresh = () => [entity, explained, past, log].forEach((query) => query.again());
  const shown = { path: streamPath(name), name, etag: entity.etag };
  // Without the layouter nothing moves, so there is nothing to confirm.
  const toggle = () => {
    setFailed(null);
    if (!isLayouterOff(explained.error)) {
      setDialog('toggle');
      return;
    }
    const patch = JSON.stringify({ disabled: stream.disabled ? null : true });
    const refused = (error: Error) => {
      setFailed(error);
      entity.again();
    };
    void changeShown(shown, patch).then(refresh, refused);
  };
  const saved = () => {
    setDialog(null);
    refresh();
  };
  return (
    <>
      <Title
        stream={stream}
        mayWrite={me.may.write}
        onToggle={toggle}
        onMove={() => setDialog('move')}
        onDelete={() => setDeleted(shown)}
        onEdit={() => setDialog('edit')}
      />
      <Failure error={failed ?? entity.error} again={refresh} />
      {dialog === 'toggle' && (
        <ToggleStream stream={stream} me={me} onClose={() => setDialog(null)} onSaved={saved} />
      )}
      {dialog === 'edit' && (
        <EditStream stream={stream} me={me} onClose={() => setDialog(null)} onSaved={saved} />
      )}
      {dialog === 'move' && (
        <Move
          names={[name]}
          ingest={stream.layout?.ingest}
          isPinned={stream.layout?.pinned}
          onClose={() => setDialog(null)}
          onMoved={saved}
        />
      )}
      {deleted && (
        <Deletion
          of={deleted}
          lead={consequences(stream)}
          onClose={() => setDeleted(null)}
          onSaved={() => go(href('streams'), { replace: true })}
        />
      )}
      <div class="facts-line">
        {stream.title && <span class="title" translate={false}>{stream.title}</span>}
        <Labels labels={stream.labels} most={8} />
      </div>
      <div class="columns">
        <div class="stacked">
          <Panel title={t('stream.where')}>
            <Where stream={stream} />
          </Panel>
          <Panel title={t('stream.history')}>
            <Failure error={past.error} />
            <Past layouts={past.data?.layouts ?? []} />
          </Panel>
          <Panel title={t('stream.events')}>
            <EventLines events={folded(log.data?.events ?? [])} none={t('stream.no_events')} />
          </Panel>
          <Configuration stream={stream} />
        </div>
        <div class="stacked">
          <WhyPanel
            isPlaced={Boolean(stream.layout?.ingest)}
            error={explained.error}
            data={explained.data}
          />
        </div>
      </div>
    </>
  );
}
