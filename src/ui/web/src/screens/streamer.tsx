// One streamer: how full, how well, what runs on it.
import type { ComponentChildren } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { newestEvents } from '../api';
import { folded } from '../folding';
import * as f from '../format';
import { streamerPath } from '../json';
import { Line } from '../line';
import type {
  EventRecord,
  HistoryTable,
  Page,
  StreamEntity,
  StreamerEntity,
  StreamerReport,
} from '../model';
import { usePages } from '../pages';
import { Bar, Copy, Failure, JsonText, Labels, Mark, Panel, Time } from '../parts';
import { useQuery } from '../query';
import { go, href, type ScreenProps } from '../router';
import { withoutSecrets } from '../secrets';
import { CHANNELS_USUAL, fullest } from '../streamer_rows';
import { Table } from '../table';
import { code, t } from '../text';
import { EventLines } from './event_line';
import { Maintenance, StreamerActions } from './streamer_actions';
import { BITRATE, NAME, VIEWERS } from './stream_columns';

const SELECT = 'name,disabled,layout.ingest,stats.status,stats.bitrate,stats.online_clients';

interface MeterProps {
  title: string;
  value: ComponentChildren;
  part?: number;
  of?: number;
  warn?: number;
  bad?: number;
  children?: ComponentChildren;
}

function Meter({ title, value, part = 0, of, warn, bad, children }: MeterProps) {
  return (
    <div class="tile">
      <h2>{title}</h2>
      <p class="big">{value}</p>
      {of !== undefined && <Bar part={part} of={of} warn={warn} bad={bad} />}
      {children}
    </div>
  );
}

interface MetersProps {
  streamer: StreamerEntity;
  assigned: number | null;
  history: HistoryTable | null;
}

function Meters({ streamer, assigned, history }: MetersProps) {
  const report: StreamerReport = streamer.stats ?? {};
  const limit = streamer.channel_limit ?? CHANNELS_USUAL;
  const disk = fullest(report.partitions);
  const streams = (
    <>
      {f.count(assigned)}
      <small> / {f.count(limit)}</small>
    </>
  );
  return (
    <div class="tiles six">
      <Meter
        title={t('col.assigned')}
        value={streams}
        part={assigned ?? 0}
        of={limit}
        warn={0.985}
        bad={2}
      />
      <Meter
        title={t('col.cpu')}
        value={f.percent(report.cpu_usage)}
        part={report.cpu_usage}
        of={100}
      >
        <Line of={history} field="cpu" top={100} />
      </Meter>
      <Meter
        title={t('col.mem')}
        value={f.percent(report.memory_usage)}
        part={report.memory_usage}
        of={100}
      >
        <Line of={history} field="memory" top={100} />
      </Meter>
      <Meter title={t('col.in')} value={f.rate(report.input_kbit)}>
        <Line of={history} field="input_kbit" />
      </Meter>
      <Meter title={t('col.out')} value={f.rate(report.output_kbit)}>
        <Line of={history} field="output_kbit" />
      </Meter>
      <Meter title={t('col.disk')} value={f.percent(disk)} part={disk} of={100} />
    </div>
  );
}

type Children = { children: ComponentChildren };

function Title({ streamer, children }: { streamer: StreamerEntity } & Children) {
  const state = streamer.state?.name ?? 'unknown';
  const cause = streamer.state?.cause;
  return (
    <div class="bar-top">
      <h1>
        <a class="back" href={href('streamers')} aria-label={t('nav.back_streamers')}>
          ‹
        </a>{' '}
        <Mark of={state} /> <span class="name-big" translate={false}>{streamer.hostname}</span>{' '}
        <small>
          {t(`state.${state}`)}
          {cause && `: ${code('cause', cause)}`} · <Time at={streamer.state?.since} />
        </small>
      </h1>
      <Labels labels={streamer.labels} most={6} />
      <span class="grow" />
      <a class="button" href={href('whatif', [], { kind: 'lose', hosts: streamer.hostname })}>
        {t('whatif.if_lost')}
      </a>
      {children}
    </div>
  );
}

function Report({ report }: { report: StreamerReport }) {
  return (
    <Panel title={t('streamer.report')}>
      <dl class="facts">
        <dt>{t('col.version')}</dt>
        <dd>{report.server_version ?? '–'}</dd>
        <dt>{t('col.up')}</dt>
        <dd>{f.duration(report.uptime)}</dd>
        <dt>{t('col.viewers')}</dt>
        <dd>{f.count(report.total_clients)}</dd>
      </dl>
    </Panel>
  );
}

/** The configuration without what this server adds to it. */
function shownConfig(streamer: StreamerEntity): Record<string, unknown> {
  const {
    health: _health,
    load: _load,
    state: _state,
    stats: _stats,
    streams: _streams,
    ...config
  } = streamer;
  return config;
}

export function Streamer({ route, me }: ScreenProps) {
  const hostname = route.rest[0] ?? '';
  const sort = route.query.sort ?? '-stats.online_clients';
  const about = (events: EventRecord[]) => events.some((it) => it.entity_id === hostname);
  const entity = useQuery<StreamerEntity>(streamerPath(hostname), {
    every: 5000,
    wake: about,
    keep: (answer) => withoutSecrets(answer) as StreamerEntity,
  });
  const history = useQuery<HistoryTable>(`${streamerPath(hostname)}/history`, { every: 15_000 });
  const log = useQuery<Page<'events', EventRecord>>(newestEvents(12, { entity_id: hostname }), {
    wake: about,
  });
  const query = useMemo(
    () => ({ 'layout.ingest': hostname, sort, select: SELECT }),
    [hostname, sort],
  );
  const pages = usePages<'streams', StreamEntity>('/streams', query, 'streams');
  const [failed, setFailed] = useState<Error | null>(null);
  if (!entity.data) {
    return entity.error ? (
      <Failure error={entity.error} again={entity.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const streamer = entity.data;
  const config = shownConfig(streamer);
  const setSort = (next: string) =>
    go(href('streamers', [hostname], { sort: next || 'name' }), { replace: true });
  const filter = <a href={href('streams', [], { streamer: hostname })}>{t('streamer.filter')}</a>;
  return (
    <>
      <Title streamer={streamer}>
        <StreamerActions
          streamer={streamer}
          etag={entity.etag}
          assigned={pages.total}
          me={me}
          onChanged={entity.again}
          onFailure={setFailed}
        />
      </Title>
      <Failure error={failed} />
      <Failure error={entity.error ?? pages.error} again={entity.again} />
      <Maintenance of={streamer} />
      <Meters streamer={streamer} assigned={pages.total} history={history.data} />
      <div class="columns wide-left">
        <Panel title={t('streams.title')} aside={filter} kind="with-table">
          <Table
            kind="on-streamer"
            label={t('streamer.streams', { host: hostname })}
            columns={[NAME, BITRATE, VIEWERS]}
            source={pages}
            keyOf={(stream) => stream.name}
            onOpen={(stream) => go(href('streams', [stream.name]))}
            height={34}
            sort={sort}
            onSort={setSort}
            empty={t('streamer.none')}
            isBusy={pages.isLoading && pages.length === 0}
          />
        </Panel>
        <div class="stacked">
          <Panel title={t('stream.events')}>
            <EventLines events={folded(log.data?.events ?? [])} none={t('recent.none')} />
          </Panel>
          <Panel title={t('stream.config')} aside={<Copy text={JSON.stringify(config, null, 2)} />}>
            <JsonText value={config} label={t('stream.config')} />
          </Panel>
          {streamer.stats && <Report report={streamer.stats} />}
        </div>
      </div>
    </>
  );
}
