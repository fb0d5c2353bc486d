package harness

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// App is what a test wants to run; the zero value of each field is the usual thing.
type App struct {
	Name           string
	Version        string            // APP_VERSION, and the label version
	ServiceAccount string            // made if it is not there; default: the app's name
	Replicas       int32             // default 1
	Args           []string          // default: echo
	Image          string            // default: the test apps
	Labels         map[string]string // of the pods, besides app and version
	Annotations    map[string]string // of the pods
	Ports          []corev1.ServicePort
	NoService      bool
	Change         func(*corev1.PodSpec)
}

// EchoPorts are the echo server's, declared as users do; `any` declares nothing.
func EchoPorts() []corev1.ServicePort {
	port := func(name string, number, target int32) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromInt32(target)}
	}
	return []corev1.ServicePort{
		port("http", 8080, 8080), port("any", 8081, 8080), port("grpc", 9090, 9090), port("tcp-echo", 7070, 7070),
		port("banner", 7071, 7071), port("tls-own", 8443, 8443),
	}
}

// Client is an app that waits for orders: calls and loads are run in it.
func Client(name string) App {
	return App{Name: name, Args: []string{"load", "agent"}, NoService: true}
}

// Pod is a bare pod of the app.
func (s *Space) Pod(app App) *corev1.Pod {
	template := s.template(app)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name, Labels: template.Labels, Annotations: template.Annotations},
		Spec:       template.Spec,
	}
}

// Deploy runs the app as a Deployment with a Service.
func (s *Space) Deploy(apps ...App) {
	s.T.Helper()
	for _, app := range apps {
		_, err := s.Kube.AppsV1().Deployments(s.Name).Create(s.T.Context(), &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: app.Name},
			Spec:       appsv1.DeploymentSpec{Replicas: replicas(app), Selector: selector(app), Template: s.template(app)},
		}, metav1.CreateOptions{})
		s.must("create Deployment "+app.Name, err)
		s.service(app, "")
	}
}

// StatefulSet runs the app as one, with a headless Service.
func (s *Space) StatefulSet(app App) {
	s.T.Helper()
	_, err := s.Kube.AppsV1().StatefulSets(s.Name).Create(s.T.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: replicas(app), Selector: selector(app), Template: s.template(app), ServiceName: app.Name,
			PodManagementPolicy: appsv1.ParallelPodManagement,
		},
	}, metav1.CreateOptions{})
	s.must("create StatefulSet "+app.Name, err)
	s.service(app, corev1.ClusterIPNone)
}

// DaemonSet runs the app as one, with a Service.
func (s *Space) DaemonSet(app App) {
	s.T.Helper()
	_, err := s.Kube.AppsV1().DaemonSets(s.Name).Create(s.T.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name},
		Spec:       appsv1.DaemonSetSpec{Selector: selector(app), Template: s.template(app)},
	}, metav1.CreateOptions{})
	s.must("create DaemonSet "+app.Name, err)
	s.service(app, "")
}

// Job runs the app once.
func (s *Space) Job(app App) {
	s.T.Helper()
	_, err := s.Kube.BatchV1().Jobs(s.Name).Create(s.T.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name}, Spec: s.jobSpec(app),
	}, metav1.CreateOptions{})
	s.must("create Job "+app.Name, err)
}

// CronJob runs the app every minute.
func (s *Space) CronJob(app App) {
	s.T.Helper()
	_, err := s.Kube.BatchV1().CronJobs(s.Name).Create(s.T.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: s.jobSpec(app)}},
	}, metav1.CreateOptions{})
	s.must("create CronJob "+app.Name, err)
}

// Service makes one more, that selects what it says.
func (s *Space) Service(name string, selector map[string]string, ports ...corev1.ServicePort) {
	s.T.Helper()
	if len(ports) == 0 {
		ports = EchoPorts()
	}
	_, err := s.Kube.CoreV1().Services(s.Name).Create(s.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector, Ports: ports},
	}, metav1.CreateOptions{})
	s.must("create Service "+name, err)
}

func (s *Space) jobSpec(app App) batchv1.JobSpec {
	spec := batchv1.JobSpec{BackoffLimit: new(int32), Template: s.template(app)}
	spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Template.Spec.Containers[0].ReadinessProbe = nil
	return spec
}

func (s *Space) template(app App) corev1.PodTemplateSpec {
	s.T.Helper()
	if app.ServiceAccount == "" {
		app.ServiceAccount = app.Name
	}
	_, err := s.Kube.CoreV1().ServiceAccounts(s.Name).Create(s.T.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app.ServiceAccount}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		s.must("create ServiceAccount "+app.ServiceAccount, err)
	}
	container := corev1.Container{
		Name: "app", Image: app.Image, Args: app.Args, ImagePullPolicy: corev1.PullIfNotPresent,
		Env: []corev1.EnvVar{{Name: "APP_NAME", Value: app.Name}, {Name: "APP_VERSION", Value: app.Version}},
	}
	if app.Image == "" {
		container.Image = s.Settings.Image("apps")
	}
	if len(app.Args) == 0 {
		container.Args = []string{"echo"}
		// Patient: a small machine under attack is no reason to take a pod out of its Service.
		container.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)},
		}}
	}
	labels := map[string]string{"app": app.Name}
	if app.Version != "" {
		labels["version"] = app.Version
	}
	maps.Copy(labels, app.Labels)
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: app.Annotations},
		Spec: corev1.PodSpec{
			ServiceAccountName: app.ServiceAccount, Containers: []corev1.Container{container},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app.Name}},
			}},
		},
	}
	if app.Change != nil {
		app.Change(&template.Spec)
	}
	return template
}

func (s *Space) service(app App, clusterIP string) {
	s.T.Helper()
	if app.NoService {
		return
	}
	ports := app.Ports
	if len(ports) == 0 {
		ports = EchoPorts()
	}
	_, err := s.Kube.CoreV1().Services(s.Name).Create(s.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app.Name},
		Spec:       corev1.ServiceSpec{Selector: selector(app).MatchLabels, Ports: ports, ClusterIP: clusterIP},
	}, metav1.CreateOptions{})
	s.must("create Service "+app.Name, err)
}

func (s *Space) must(what string, err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatalf("%s in %s: %v", what, s.Name, err)
	}
}

func replicas(app App) *int32 {
	count := max(app.Replicas, 1)
	return &count
}

func selector(app App) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app.Name}}
}

// Port is a target port by number.
func Port(number int32) intstr.IntOrString { return intstr.FromInt32(number) }
